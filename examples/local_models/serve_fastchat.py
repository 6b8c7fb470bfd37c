"""FastChat's three processes, controller, worker and OpenAI's dialect, on 127.0.0.1 and the CPU.

python examples/local_models/serve_fastchat.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from served import HOST, announce, free_port, running, stop_at_signals, wait_for

if TYPE_CHECKING:
    from subprocess import Popen

MODEL = "smollm2-135m"
TEMPLATE = "Yi-34b-chat"
"""FastChat's name of ChatML, as SmolLM2 reads it; by itself it would take a one-shot template."""


def main(options: argparse.Namespace) -> None:
    stop_at_signals()
    controller, worker, api = (f"http://{HOST}:{port}" for port in (free_port(), free_port(), options.port))
    to_controller = ("--controller-address", controller)
    with process("controller", controller, options) as first:
        wait_for(f"{controller}/docs", first)
        with (
            process("model_worker", worker, options, *to_controller, *model(worker, options)) as second,
            process("openai_api_server", api, options, *to_controller) as third,
        ):
            wait_for(f"{api}/v1/models", first, second, third, containing=MODEL.encode())
            announce(f"{api}/v1")
            sys.exit(third.wait())


@contextmanager
def process(module: str, url: str, options: argparse.Namespace, *args: str) -> Iterator[Popen[bytes]]:
    """Run one of the three at this address; the log files that each writes besides are not kept."""
    where = ("--host", HOST, "--port", url.rpartition(":")[2])
    with TemporaryDirectory() as logs:
        environ = {"OMP_NUM_THREADS": str(options.threads), "LOGDIR": logs}
        with running(f"fastchat.serve.{module}", *where, *args, **environ) as child:
            yield child


def model(worker: str, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the worker's arguments."""
    loaded = ("--model-path", str(options.folder), "--model-names", MODEL, "--conv-template", TEMPLATE)
    return ("--worker-address", worker, *loaded, "--device", "cpu")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the model, in Transformers' form")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
