"""A model behind Flask, with Transformers or ModelScope, as AgentScope v0.0.2's scripts served one.

python examples/local_models/serve_flask.py transformers FOLDER
python examples/local_models/serve_flask.py modelscope FOLDER

``POST /llm/`` takes ``{"inputs": ..., **arguments of generate}`` (scripts/flask_transformers/
setup_hf_service.py), where ``inputs`` is a text, or a list of messages for the wrapper ``post_api_chat``.
The answer has the text twice, as either wrapper looks for it. As in that script ``n_token_response``
counts the prompt as well.
"""

from __future__ import annotations

import argparse
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from served import HOST, announce, stop_at_signals

ARGUMENTS = {
    "max_length": (int, 1, 32_768),
    "max_new_tokens": (int, 1, 4096),
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, 0, 1000),
    "repetition_penalty": (float, 0.1, 10),
}
"""Of ``generate``, with what they may be: one request at a time is answered, so none may last. Not all of
them: some would have it load files, or run code, named by the caller."""
DEFAULT_NEW_TOKENS = 128
MAX_BODY_BYTES = 2**20


class Model:
    """A causal language model on the CPU, one request at a time."""

    def __init__(self, library: Any, folder: Path, *, threads: int) -> None:
        """Load the model; the classes have the same names in both libraries."""
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._tokenizer = library.AutoTokenizer.from_pretrained(str(folder))
        self._model = library.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
        self._lock = threading.Lock()

    def answer(self, inputs: str | list[dict[str, Any]], **args: Any) -> dict[str, Any]:
        """Answer a text or a conversation; a model that knows no conversations goes on with the text.

        Raises:
            ValueError: the model does not take these arguments, say, a prompt longer than ``max_length``.
        """
        prompt = self._tokens(inputs)
        read = prompt["input_ids"].shape[1]
        with self._lock, self._torch.inference_mode():
            whole = self._model.generate(**prompt, **sampling(args))[0]
        text = self._tokenizer.decode(whole[read:], skip_special_tokens=True)
        return in_both_forms(text, read=read, whole=len(whole))

    def _tokens(self, inputs: str | list[dict[str, Any]]) -> dict[str, Any]:
        if isinstance(inputs, str) and not self._tokenizer.chat_template:
            tokens = self._tokenizer(inputs, return_tensors="pt")
        else:
            # A chat model often has nothing to add to a bare text, so it hears it from a user.
            said = [{"role": "user", "content": inputs}] if isinstance(inputs, str) else inputs
            tokens = self._tokenizer.apply_chat_template(
                said, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def sampling(args: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``generate``; temperature 0 means: always the likeliest token."""
    if "max_length" not in args:
        args = {"max_new_tokens": DEFAULT_NEW_TOKENS, **args}
    if not args.get("temperature"):
        return {**{name: args[name] for name in args if name != "temperature"}, "do_sample": False}
    return {**args, "do_sample": True}


def in_both_forms(text: str, *, read: int, whole: int) -> dict[str, Any]:
    """Return what ``post_api`` reads, and under ``data`` what ``post_api_chat`` does."""
    usage = {"prompt_tokens": read, "completion_tokens": whole - read, "total_tokens": whole}
    message = {"role": "assistant", "content": text}
    return {
        "response": text,
        "n_token_prompt": read,
        "n_token_response": whole,
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"),
        "data": {"response": {"choices": [{"index": 0, "message": message}], "usage": usage}},
    }


def service(model: Any) -> Any:
    """Return the Flask application."""
    from flask import Flask, request

    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    def llm() -> Any:
        try:
            return model.answer(**checked(request.get_json()))
        except RecursionError:
            return {"error": "The body is nested too deeply."}, 400
        except ValueError as error:
            return {"error": str(error)}, 400

    app.add_url_rule("/llm/", view_func=llm, methods=["POST"])
    return app


def checked(body: Any) -> dict[str, Any]:
    """Return the body.

    Raises:
        ValueError: it is not an object with ``inputs`` and known arguments within their bounds.
    """
    if not isinstance(body, dict) or not is_input(body.get("inputs")):
        raise ValueError('Expected {"inputs": a text or a list of {"role": ..., "content": a text}, ...}.')
    args = {name: value for name, value in body.items() if name != "inputs"}
    unknown = args.keys() - set(ARGUMENTS)
    if unknown:
        raise ValueError(f"Unknown: {', '.join(sorted(unknown))}. Known: {', '.join(ARGUMENTS)}.")
    for name, value in args.items():
        kind, least, most = ARGUMENTS[name]
        if type(value) not in (int, kind) or not least <= value <= most:  # nor is NaN
            number = "a whole number" if kind is int else "a number"
            raise ValueError(f"Expected {number} from {least} to {most} for {name}.")
    return body


def is_input(inputs: Any) -> bool:
    if not isinstance(inputs, list):
        return isinstance(inputs, str) and inputs != ""
    texts = [m.get(key) for m in inputs if isinstance(m, dict) for key in ("role", "content")]
    return 0 < len(texts) == 2 * len(inputs) and all(isinstance(text, str) for text in texts)


def main(options: argparse.Namespace) -> None:
    from werkzeug.serving import make_server

    stop_at_signals()
    model = Model(import_module(options.library), options.folder, threads=options.threads)
    server = make_server(HOST, options.port, service(model), threaded=True)
    announce(f"http://{HOST}:{server.server_port}/llm/")
    server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", choices=("transformers", "modelscope"))
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the model, in Transformers' form")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
