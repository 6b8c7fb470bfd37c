"""Who a node is, and what it allows the others."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex

from ..errors import ConfigError
from . import encoding
from .frames import FrameError, Terms

__all__ = ["Settings", "new_incarnation"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Who this node is, and what it allows. The first five limits are told to the other side.

    Attributes:
        node: this node's name.
        inc: its incarnation, from :func:`new_incarnation`.
        max_frame: bytes of one frame, and of one message of several.
        max_body: bytes of one frame that comes in parts.
        credit: frames one agent may be sent before it has consumed any.
        heartbeat_s: something is said at least that often.
        window_s: how long a session without a link waits for one.
        handshake_s: how long a link may take to be welcomed.
        outbox_frames, outbox_bytes: what may be sent and not yet acknowledged. A frame larger
            than ``outbox_bytes`` goes when the outbox is empty.
    """

    node: str
    inc: str
    max_frame: int = 1024 * 1024
    max_body: int = 32 * 1024 * 1024
    credit: int = 64
    heartbeat_s: float = 1.0
    window_s: float = 30.0
    handshake_s: float = 5.0
    outbox_frames: int = 16_384
    outbox_bytes: int = 8 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse what the other side would.

        Raises:
            ConfigError: a name is none, or a limit is out of its range.
        """
        try:
            encoding.check_settings(self.node, self.inc, self.terms)
        except FrameError as error:
            raise ConfigError(f"These settings of node {self.node!r} cannot be used: {error}") from None

    @property
    def terms(self) -> Terms:
        """What the other side is told."""
        return Terms(self.max_frame, self.max_body, self.credit, round(self.heartbeat_s * 1000))


def new_incarnation(starts: int = 0) -> str:
    """Return a name for this run of a node; ``starts`` counts its runs, where that is kept on disk."""
    return f"{starts}.{token_hex(8)}"
