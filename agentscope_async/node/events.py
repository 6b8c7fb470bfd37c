"""What a session tells its owner: what arrived, what became of what was sent, and why it cannot send."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeAlias

from .frames import Ask, Cancel, CloseCode, Down, Probe, Reply, Spawn, Tell, Unwatch, Watch

__all__ = [
    "CannotSend", "CloseLink", "CreditGranted", "Event", "LateReply", "LinkSuspect", "LinkUp", "Outcome",
    "PeerDraining", "Refused", "RoomBack", "SessionLost", "SessionStatistics", "State",
]  # fmt: skip


class State(Enum):
    """Where a session is."""

    NEW = "new"
    HANDSHAKE = "handshake"
    OPEN = "open"
    SUSPENDED = "suspended"
    OVER = "over"


class CannotSend(RuntimeError):
    """This cannot be sent now; nothing was.

    Attributes:
        code: ``outbox_full`` or ``too_many_asks`` (until :class:`RoomBack`), ``no_credit`` (until
            :class:`CreditGranted`), ``not_linked`` (until the first :class:`LinkUp`), ``draining``,
            ``session_over``, ``too_many_targets``, or ``not_asked``: no such ask waits for a reply.
        target: whose credit is used up; else None.
    """

    def __init__(self, code: str, text: str, target: str | int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.target = target


@dataclass(slots=True)
class LinkUp:
    """The link is open; ``resumed`` when it is not the session's first."""

    resumed: bool


@dataclass(slots=True)
class LinkSuspect:
    """Nothing was heard for so long that the link is given up; CloseLink follows."""

    silent_s: float


@dataclass(slots=True)
class CloseLink:
    """Write what ``poll`` still gives, then close the link with this code. It is out of use already."""

    code: CloseCode
    text: str


@dataclass(slots=True)
class RoomBack:
    """There was no room for a frame, or for one more open ask, and there is again."""


@dataclass(slots=True)
class CreditGranted:
    """An agent (by name), an ask (by id), or the node itself was out of credit and may be sent more."""

    target: str | int


@dataclass(slots=True)
class PeerDraining:
    """The other node takes no new work and ends after ``drain_ms``."""

    reason: str
    drain_ms: int


@dataclass(slots=True)
class Refused:
    """A frame could not be accepted as it was; it is out of the way.

    A ``kind`` of ``"ask"`` or ``"spn"`` with an ``id`` is to be answered with ``fail(id, ...)``.
    """

    kind: str
    id: int | None
    code: str
    text: str


@dataclass(slots=True)
class LateReply:
    """A reply nobody waits for."""

    reply: Reply


@dataclass(slots=True)
class Outcome:
    """What became of something sent, when its session was lost.

    Attributes:
        kind: ``"tell"``, ``"ask"`` (also of a spawn) or ``"reply"``.
        n: the number ``tell`` returned. id: that of the ask.
        outcome: ``"not_delivered"``: it never left; ``"unknown"``: the other side may have handled it.
        tag: as given when it was sent.
    """

    kind: str
    n: int
    id: int
    outcome: Literal["not_delivered", "unknown"]
    tag: Any


@dataclass(slots=True)
class SessionLost:
    """The last event: the session is over.

    Attributes:
        reason: ``window``, ``restarted``, ``replaced``, ``forgotten``, ``closed``, a violation's close
            code by name (``flow``, ...), or the one given to ``close``.
        outcomes: of all that was sent and is neither acknowledged nor answered, in the order sent.
        watches: ids of all watches; they fire now.
    """

    reason: str
    outcomes: list[Outcome]
    watches: list[int]


Event: TypeAlias = (
    Tell | Ask | Reply | Cancel | Watch | Unwatch | Down | Spawn | Probe
    | LinkUp | LinkSuspect | CloseLink | RoomBack | CreditGranted | PeerDraining | Refused | LateReply
    | SessionLost
)  # fmt: skip
"""Besides those defined here, frames of the other node are events."""


class SessionStatistics(NamedTuple):
    """A snapshot; frames and bytes count what is numbered, ``round_trip_s`` is of the last heartbeat."""

    state: State
    frames_sent: int
    frames_received: int
    frames_waiting: int
    bytes_waiting: int
    duplicates: int
    links: int
    asks_open: int
    asks_to_answer: int
    round_trip_s: float | None
