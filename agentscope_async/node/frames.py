"""What two nodes say to each other: one JSON object a frame, ``t`` is its type.

A websocket message is one frame, or a list of them.
``decoding`` reads frames, ``encoding`` writes them; both hold them to the limits below.

Numbered frames (``n`` counts from 1 in each direction of a session) are delivered exactly
once and in order; the others are idempotent and may get lost with a link. After the
greeting any frame may acknowledge, by ``a``, what its sender has received: the last ``n``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

__all__ = [
    "Ack", "Ask", "Bye", "Cancel", "CloseCode", "Credit", "Down", "Failure", "Frame", "FrameError",
    "Heartbeat", "HeartbeatReply", "Hello", "Part", "Probe", "Reply", "Spawn", "Tell", "Terms", "Unwatch",
    "Watch", "Welcome",
]  # fmt: skip

VERSION = 1
MAX_DEPTH = 68
"""A message's fields may nest 64 deep; the message, the frame and a list or two go around them."""
MAX_ELEMENTS = 100_100
"""A message may hold 100,000 values; the frame adds its own fields."""
MAX_INTEGER = 2**53
"""Above it other JSON readers round; numbers and ids of frames stay below."""
MAX_HOPS = 32
MAX_PARTS = 1024
MAX_TEXT = 4096
MAX_TRACEBACK = 16_384
MAX_HELLO_BYTES = 4096
MIN_FRAME_BYTES = 16 * 1024
"""The least a receiver may allow: every frame without a body fits."""
TAIL_BYTES = 48
"""What :func:`~agentscope_async.node.encoding.with_tail` adds to a frame at most, and a comma."""
PART_BYTES = 160
"""What a ``part`` frame has besides its data at most."""
REPLY = "reply"
"""The operation meant by a tell or an ask that names none."""
NODE = "_node"
"""The node itself, as a target of credit: what a spawn is charged to."""


class CloseCode(IntEnum):
    """Why a link is closed."""

    BAD_FRAME = 4001
    SEQUENCE = 4002
    IDENTITY = 4003
    VERSION = 4004
    AUTH_EXPIRED = 4005
    FLOW = 4006
    HANDSHAKE_TIMEOUT = 4007
    FENCED = 4008
    REPLACED = 4009
    DRAINING = 4010


class FrameError(ValueError):
    """A frame cannot be read, or cannot be sent as it is.

    Attributes:
        code: one word for programs: ``bad_json``, ``bad_frame``, ``unknown_type``, ``bad_name``,
            ``forbidden``, ``hop_limit``, ``bad_payload``, ``too_large``, ``too_deep``,
            ``too_many_elements`` or ``version``.
        number: the ``n`` of a numbered frame, where that much could be read; else None.
        kind: its ``t``.
        id: its ``id``, where that could be read.
        target: what it was charged to, where that could be read; else "".
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.number: int | None = None
        self.kind: str = ""
        self.id: int | None = None
        self.target = ""


@dataclass(slots=True)
class Tell:
    """A letter for the agent ``to`` that nobody waits for."""

    n: int
    to: str
    body: Any
    sender: str | None
    op: str


@dataclass(slots=True)
class Ask:
    """A request to the agent ``to``.

    Attributes:
        ttl_ms: milliseconds the asker still waits, measured when the frame was written; None: no limit.
        chain: who waits for this answer, outermost first.
        wants_parts: streamed parts of the reply are welcome.
    """

    n: int
    id: int
    to: str
    body: Any
    ttl_ms: int | None
    chain: tuple[str, ...]
    sender: str | None
    op: str
    wants_parts: bool


@dataclass(slots=True)
class Failure:
    """Why an ask has no reply.

    Attributes:
        code: one word for programs, for example ``no_such_agent``, ``deadline``, ``agent_error``.
        type: the name of the exception's class, or "".
        facts: what else the exception knows (a chain, a capacity), by attribute.
    """

    code: str
    text: str
    type: str = ""
    traceback: str = ""
    facts: dict[str, Any] | None = None


@dataclass(slots=True)
class Reply:
    """The answer to an ask or a spawn, or (``last`` False) a streamed part of it."""

    n: int
    id: int
    body: Any
    failure: Failure | None
    last: bool


@dataclass(slots=True)
class Cancel:
    """Whoever asked ``id`` does not wait any more."""

    n: int
    id: int


@dataclass(slots=True)
class Watch:
    """Tell me once when the agent ``ref`` is gone."""

    n: int
    id: int
    ref: str


@dataclass(slots=True)
class Unwatch:
    """Never mind."""

    n: int
    id: int


@dataclass(slots=True)
class Down:
    """What watch ``id`` looked at is gone."""

    n: int
    id: int
    reason: str


@dataclass(slots=True)
class Spawn:
    """Create an agent of a registered ``kind`` under ``name``; answered as an ask is."""

    n: int
    id: int
    kind: str
    name: str
    cfg: dict[str, Any]
    ttl_ms: int | None


@dataclass(slots=True)
class Part:
    """A piece of a frame too large for one; ``id`` is the number of the first piece."""

    n: int
    id: int
    index: int
    of: int
    data: bytes
    ttl_ms: int | None


@dataclass(slots=True)
class Ack:
    """Everything up to and with number ``rx`` has been admitted."""

    rx: int


@dataclass(slots=True)
class Credit:
    """``target``, an agent or an ask that is being answered in parts, may be sent ``upto`` frames in all."""

    target: str | int
    upto: int


@dataclass(slots=True)
class Heartbeat:
    """I am here; ``ts`` comes back."""

    ts: int


@dataclass(slots=True)
class HeartbeatReply:
    """The ``ts`` of a heartbeat."""

    ts: int


@dataclass(slots=True)
class Probe:
    """Does the turn that answers your ask ``id`` wait, in the end, for somebody in ``path``?"""

    id: int
    path: tuple[str, ...]


@dataclass(slots=True)
class Bye:
    """No new work, please; this node ends after ``drain_ms``, with 0 now."""

    reason: str
    drain_ms: int


@dataclass(slots=True)
class Terms:
    """What a receiver allows: bytes a frame and a body may have, frames a target may be sent at first."""

    max_frame: int
    max_body: int
    credit: int
    heartbeat_ms: int


@dataclass(slots=True)
class Hello:
    """The dialer's first frame; ``key`` is None until a session has one, ``rx`` what it has received."""

    node: str
    inc: str
    sid: str
    key: str | None
    rx: int
    terms: Terms


@dataclass(slots=True)
class Welcome:
    """The acceptor's first frame; not ``resumed``: the session it names is new."""

    node: str
    inc: str
    key: str
    rx: int
    resumed: bool
    terms: Terms


Frame: TypeAlias = (
    Tell | Ask | Reply | Cancel | Watch | Unwatch | Down | Spawn | Part
    | Ack | Credit | Heartbeat | HeartbeatReply | Probe | Bye | Hello | Welcome
)  # fmt: skip
