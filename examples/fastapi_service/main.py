"""An agent as a web service: a conversation for each client, kept in a file.

python examples/fastapi_service/main.py                     # the bundled small model
python examples/fastapi_service/main.py --model fake:echo   # no model at all
"""

from __future__ import annotations

import argparse
import sys

try:
    import uvicorn
    from fastapi import FastAPI
except ImportError:
    sys.exit("This example needs the extra: pip install -e '.[web]'")

from agentscope_async import DialogAgent
from agentscope_async.web import Sessions, expose, lifespan


def make_app(model: str, store: str) -> FastAPI:
    def ann(key: str) -> DialogAgent:
        return DialogAgent("Ann", "You are a friendly assistant. Answer in one short sentence.", model)

    app = FastAPI(title="Ann", lifespan=lifespan())
    # One conversation per client; 100 stay in memory, all are kept in the file, also across restarts.
    app.include_router(expose(ann, sessions=Sessions(live=100, store=store)))
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--store", default="conversations.db", help="where conversations are kept")
    options = parser.parse_args()
    uvicorn.run(
        make_app(options.model, options.store),
        host="127.0.0.1",
        port=options.port,
        timeout_graceful_shutdown=3,  # seconds that open streams and websockets may hold up Ctrl-C
    )
