"""How many tokens a text or a conversation has: exactly for OpenAI's models, estimated for all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import orjson

from .errors import MissingExtraError
from .message import ContentPart, Msg, TextPart, ThinkingPart, ToolCallPart, ToolResultPart

__all__ = ["count_openai_token", "count_tokens", "get_openai_max_length"]

_TextCounter: TypeAlias = Callable[[list[str]], int]
"""Returns the tokens of several texts together."""

TOKENS_PER_MESSAGE = 4
TOKENS_PER_MEDIUM = 1_100
"""An image of 1,024 x 1,024 takes 765 tokens with gpt-4o, 1,290 with Gemini 2.5 (their documentation)."""
MOST_TOKENS_PER_MESSAGE = 8
MOST_TOKENS_PER_MEDIUM = 2_000

_K = 1_000
# https://platform.openai.com/docs/models; those since retired as AgentScope v0.0.2 has them
# (utils/token_utils.py). Snapshots with a date are found under the name without it.
_MAX_LENGTHS = {
    "gpt-6.1-sol": 1_050 * _K, "gpt-6.1-terra": 1_050 * _K,
    "gpt-6-astra": 1_050 * _K, "gpt-6-sol": 1_050 * _K, "gpt-6-luna": 1_050 * _K,
    "gpt-5.6-sol": 1_050 * _K, "gpt-5.6-terra": 1_050 * _K, "gpt-5.6-luna": 1_050 * _K,
    "gpt-5.5": 1_000 * _K, "gpt-5.5-pro": 1_000 * _K,
    "gpt-5.4": 1_050 * _K, "gpt-5.4-pro": 1_050 * _K, "gpt-5.4-mini": 400 * _K, "gpt-5.4-nano": 400 * _K,
    "gpt-5.3": 128 * _K, "gpt-5.3-codex": 400 * _K,
    "gpt-5.2": 400 * _K, "gpt-5.2-pro": 400 * _K, "gpt-5.1": 400 * _K, "gpt-5.1-codex-mini": 400 * _K,
    "gpt-5": 400 * _K, "gpt-5-mini": 400 * _K, "gpt-5-nano": 400 * _K, "gpt-5-pro": 400 * _K,
    "gpt-5-codex": 400 * _K, "gpt-5-chat-latest": 128 * _K,
    "gpt-oss-120b": 131_072, "gpt-oss-20b": 131_072,
    "o1": 200 * _K, "o1-pro": 200 * _K, "o1-mini": 128 * _K, "o1-preview": 128 * _K,
    "o3": 200 * _K, "o3-pro": 200 * _K, "o3-mini": 200 * _K, "o4-mini": 200 * _K,
    "gpt-4.1": 1_047_576, "gpt-4.1-mini": 1_047_576, "gpt-4.1-nano": 1_047_576, "gpt-4.5-preview": 128 * _K,
    "gpt-4o": 128 * _K, "gpt-4o-mini": 128 * _K, "chatgpt-4o-latest": 128 * _K,
    "gpt-4-turbo": 128 * _K, "gpt-4-turbo-preview": 128 * _K, "gpt-4-0125-preview": 128 * _K,
    "gpt-4-1106-preview": 128 * _K, "gpt-4-vision-preview": 128 * _K, "gpt-4-1106-vision-preview": 128 * _K,
    "gpt-4": 8_192, "gpt-4-0613": 8_192, "gpt-4-0314": 8_192,
    "gpt-4-32k": 32_768, "gpt-4-32k-0613": 32_768, "gpt-4-32k-0314": 32_768,
    "gpt-3.5-turbo": 16_385, "gpt-3.5-turbo-0125": 16_385, "gpt-3.5-turbo-1106": 16_385,
    "gpt-3.5-turbo-16k": 16_385, "gpt-3.5-turbo-16k-0613": 16_385,
    "gpt-3.5-turbo-0613": 4_096, "gpt-3.5-turbo-0301": 4_096, "gpt-3.5-turbo-instruct": 4_096,
    "davinci-002": 16_384, "babbage-002": 16_384,
    "text-davinci-003": 4_096, "text-davinci-002": 4_096, "code-davinci-002": 8_001,
    "text-curie-001": 2_049, "text-babbage-001": 2_049, "text-ada-001": 2_049,
    "davinci": 2_049, "curie": 2_049, "babbage": 2_049, "ada": 2_049,
}  # fmt: skip

_COMPLETION_MODELS = {
    "gpt-3.5-turbo-instruct": "cl100k_base", "davinci-002": "cl100k_base", "babbage-002": "cl100k_base",
    "text-davinci-003": "p50k_base", "text-davinci-002": "p50k_base", "code-davinci-002": "p50k_base",
    "text-curie-001": "r50k_base", "text-babbage-001": "r50k_base", "text-ada-001": "r50k_base",
    "davinci": "r50k_base", "curie": "r50k_base", "babbage": "r50k_base", "ada": "r50k_base",
}  # fmt: skip
_DATE = re.compile(r"-20\d\d-\d\d-\d\d$")
_O200K = re.compile(r"(gpt-4o|chatgpt-4o|gpt-4\.[15]|gpt-([5-9]|\d\d)|gpt-oss|o[1-9](-|$))")
_CL100K = re.compile(r"(gpt-4(-|$)|gpt-3\.5-turbo|gpt-35-turbo)")


def get_openai_max_length(model: str) -> int:
    """Return how many tokens a model of OpenAI's takes, prompt and answer together.

    Raises:
        KeyError: the model is not in the table.
    """
    name = _plain_name(model)
    if name not in _MAX_LENGTHS:
        raise KeyError(
            f"The maximum length of {model!r} is not known; give it yourself, for instance as max_length=."
        )
    return _MAX_LENGTHS[name]


def count_tokens(content: Any, model: str | None = None, *, upper_bound: bool = False) -> int:
    """Return how many tokens ``content`` has, as a text, a message or a list of messages.

    Never touches the network. With the extra ``tokens`` and a ``model`` of OpenAI's the
    texts are counted exactly; otherwise about four characters of English make a token,
    one Chinese character more than one. Each message (an object with a role) adds 4, each
    image 1,100. It may be in any provider's form, or the whole body of a request.

    With ``upper_bound`` it is a number the real one cannot exceed for any tokenizer that
    works on bytes, as all common ones do: the bytes of all texts in UTF-8, and for each
    message 8, each image 2,000. Sound, film and documents count like an image; for long
    ones that is too little.
    """
    tally = _Tally()
    tally.add(content)
    if upper_bound:
        return (
            sum(_utf8_length(text) for text in tally.texts)
            + tally.messages * MOST_TOKENS_PER_MESSAGE
            + tally.media * MOST_TOKENS_PER_MEDIUM
        )
    count = _bundled_counter(_encoding_of(model)) if model else None
    return (
        (count or _estimate)(tally.texts)
        + tally.messages * TOKENS_PER_MESSAGE
        + tally.media * TOKENS_PER_MEDIUM
    )


def count_openai_token(content: str | list[Any], model: str) -> int:
    """Return how many tokens OpenAI counts for a text, a list of texts or of chat messages, exactly.

    The rules are those of OpenAI's cookbook (``How_to_count_tokens_with_tiktoken``), as in
    AgentScope v0.0.2: each message takes 3 and its values, one with a name 1 more, and the
    answer's beginning 3. Completion models take texts only. The vocabularies of the models
    that are still served come with the extra ``tokens``; those of the retired ones
    (``text-davinci-003`` and older) are tiktoken's, which downloads them when first used.

    Raises:
        MissingExtraError: the extra ``tokens`` is not installed.
        NotImplementedError: the model is not one of OpenAI's, or a message for a completion model.
    """
    items = [content] if isinstance(content, str) else list(content)
    encoding = _encoding_of(model)
    if encoding is None:
        raise NotImplementedError(
            f"How {model!r} counts tokens is not known; count_tokens() gives an estimate for any model."
        )
    count = _counter(encoding)
    if _plain_name(model) in _COMPLETION_MODELS:
        return count([_only_text(item, model) for item in items])
    return sum(_count_chat_item(item, model, count) for item in items) + 3


def _only_text(item: Any, model: str) -> str:
    if not isinstance(item, str):
        raise NotImplementedError(f"{model} completes texts; it takes no {type(item).__name__}.")
    return item


def _count_chat_item(item: Any, model: str, count: _TextCounter) -> int:
    if isinstance(item, str):
        return count([item])
    per_message, per_name = (4, -1) if model == "gpt-3.5-turbo-0301" else (3, 1)
    values = _Tally()
    for value in item.values():
        values.add(value)
    media = values.media * TOKENS_PER_MEDIUM
    return per_message + count(values.texts) + media + (per_name if "name" in item else 0)


def _plain_name(model: str) -> str:
    if model.startswith("ft:"):  # ft:gpt-4o-mini-2024-07-18:org::id
        model = model.split(":")[1]
    return _DATE.sub("", model)


def _encoding_of(model: str) -> str | None:
    name = _plain_name(model)
    if name in _COMPLETION_MODELS:
        return _COMPLETION_MODELS[name]
    if _O200K.match(name):
        return "o200k_base"
    return "cl100k_base" if _CL100K.search(name) else None


def _counter(encoding: str) -> _TextCounter:
    bundled = _bundled_counter(encoding)
    if bundled is not None:
        return bundled
    try:
        tiktoken = import_module("tiktoken")
    except ImportError as error:
        package, line = ("toktok", "'agentscope-async[tokens]'")
        if encoding not in _BUNDLED:
            package, line = "tiktoken", "tiktoken"
        raise MissingExtraError(
            package, f"Counting tokens by {encoding} needs {package}: pip install {line}"
        ) from error
    encode = tiktoken.get_encoding(encoding).encode
    return lambda texts: sum(len(encode(text, disallowed_special=())) for text in texts)


_BUNDLED = ("cl100k_base", "o200k_base")


def _bundled_counter(encoding: str | None) -> _TextCounter | None:
    """Return a counter whose vocabulary is installed; None without one."""
    if encoding not in _BUNDLED:
        return None
    try:
        toktok = import_module("toktok")
    except ImportError:
        return None
    return lambda texts: sum(toktok.batch_count(map(_sound, texts), encoding, threads=1))


def _estimate(texts: list[str]) -> int:
    characters = sum(map(len, texts))
    beyond_ascii = sum(_utf8_length(text) for text in texts if not text.isascii())
    beyond_ascii -= sum(len(text) for text in texts if not text.isascii())
    # Chinese has 2 more bytes than characters and takes about 1.15 tokens a character, Russian 0.7.
    return math.ceil(characters / 4 + beyond_ascii * 0.45)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _sound(text: str) -> str:
    """Replace halves of surrogate pairs, which have no UTF-8."""
    return text if text.isascii() else text.encode(errors="replace").decode()


class _Tally:
    """The texts, messages and media found in what is sent to a model, in any provider's form."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.messages = 0
        self.media = 0

    def add(self, value: Any) -> None:
        if isinstance(value, str):
            self._add_text(value)
        elif isinstance(value, Msg):
            self._add_msg(value)
        elif isinstance(value, ContentPart):
            self._add_part(value)
        elif isinstance(value, Mapping):
            self._add_mapping(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.add(item)
        elif isinstance(value, (bytes, bytearray)):
            self.media += 1
        elif value is not None:
            self.texts.append(str(value))

    def _add_text(self, text: str) -> None:
        if text.startswith("data:") and ";base64," in text[:200]:
            self.media += 1
        else:
            self.texts.append(text)

    def _add_msg(self, msg: Msg) -> None:
        self.messages += 1
        self.texts += (msg.role, msg.name)
        self.add(msg.content)
        url = msg.get("url")
        self.media += len(url) if isinstance(url, list) else bool(url)

    def _add_part(self, part: ContentPart) -> None:
        match part:
            case TextPart() | ThinkingPart():
                self._add_text(part.text)
            case ToolCallPart():
                self.texts += (part.id, part.name, part.raw or _json(part.arguments))
            case ToolResultPart():
                self.texts += (part.id, part.name)
                self.add(part.content)
            case _:
                self.media += 1

    def _add_mapping(self, value: Mapping[Any, Any]) -> None:
        if value.get("type") in _MEDIA_TYPES:
            self.media += 1
            return
        is_message = "role" in value
        self.messages += is_message
        is_text = value.get("type") in _TEXT_TYPES and isinstance(value.get("text"), str)
        for key, item in value.items():
            if key in _MEDIA_KEYS and item:
                self.media += len(item) if isinstance(item, list) else 1
            elif not (is_text and key == "type"):
                if not (is_message or is_text):
                    self.texts.append(str(key))
                self.add(item)


_TEXT_TYPES = (None, "text", "input_text", "output_text")
_MEDIA_TYPES = frozenset({
    "image", "image_url", "input_image", "audio", "input_audio", "audio_url", "video", "video_url",
    "input_video", "file", "input_file", "document",
})  # fmt: skip
_MEDIA_KEYS = frozenset({
    "image", "images", "image_url", "audio", "video", "inline_data", "inlineData", "file_data", "fileData",
})  # fmt: skip


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
