"""A model provider on 127.0.0.1 that replays recorded answers, with faults if wanted.

The cases in ``tests/fixtures/wire`` are requests as the providers' own packages send them and
answers in the providers' form. A test points a client at the server and then looks at what
the client sent::

    async def test_it(replay):
        base_url = replay.url("openai-chat-basic", "429x2,ra=1") + "/v1"
        ...
        assert replay.differences() == {}

Faults are described in ``faults.py``. ``replay.records`` has an entry for each request, and
``replay.max_connections`` and ``replay.total_connections`` tell how connections were used.
"""

from __future__ import annotations

from .cases import Case, diff_json, load_cases
from .faults import Fault
from .replay import ReplayServer
from .server import Recorder, Reply, Request

__all__ = ["Case", "Fault", "Recorder", "ReplayServer", "Reply", "Request", "diff_json", "load_cases"]
