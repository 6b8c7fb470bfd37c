"""The baseline with less to carry: neither ids nor times, and nothing is built or checked."""

from __future__ import annotations

from typing import ClassVar

from . import raw_websockets
from ._raw import Bare


class Carrier(raw_websockets.Carrier):
    """The same connections, other messages."""

    name: ClassVar = "raw websockets, bare"
    form: ClassVar = Bare
