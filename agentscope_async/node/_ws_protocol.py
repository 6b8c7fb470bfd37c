"""The websockets package's protocol, quiet, and with a limit to pings and pongs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as WireProtocol
from websockets.server import ServerProtocol

from .connection import FLOW_VIOLATION, clipped

__all__ = ["QUIET", "ClientWire", "ServerWire"]

# The websockets package logs the headers of a handshake at DEBUG, the token among them. Nobody's
# configuration reaches a logger outside the tree.
QUIET = logging.Logger("agentscope_async.node.wire", logging.ERROR)
QUIET.parent = logging.getLogger("agentscope_async")


class Wire(WireProtocol):
    """The websockets package's protocol, which fails when there are too many pings and pongs.

    Each ping is answered at once, so a flood of them would keep the loop busy and fill the
    write buffer of a peer that does not read. They are counted here, where each is seen before
    the next is parsed: one read can hold 40,000.
    """

    clock: Callable[[], float]
    max_control_frames_per_s = 0
    _control_frames = 0
    _second = 0.0

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            now = self.clock()
            if now - self._second >= 1.0:
                self._second, self._control_frames = now, 0
            self._control_frames += 1
            if self._control_frames > self.max_control_frames_per_s:
                self.fail(FLOW_VIOLATION, "too many pings and pongs")
                return  # to a parser that finds its input discarded
        super().recv_frame(frame)

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, clipped(reason))


class ServerWire(Wire, ServerProtocol):
    """The accepting side."""


class ClientWire(Wire, ClientProtocol):
    """The dialing side."""
