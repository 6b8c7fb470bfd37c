"""Google's Gemini: chat and embeddings.

Source: ai.google.dev/api (generate-content, embeddings, models), version v1beta.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from ..errors import ConfigError, ModelError
from ..message.parts import thaw
from ._call import Call
from ._gemini_answers import GeminiCollector, explain, parse_chat_response, parse_embedding_response
from ._gemini_request import (
    as_contents,
    build_chat_body,
    build_embedding_body,
    call_part,
    media_part,
    result_part,
)
from ._kinds import EmbeddingModel
from ._media import load_media
from ._messages import hear, image_urls, text_of, with_calls_told
from ._problem import Problem
from ._request import HttpRequest, with_query
from ._sse import JSONArrayReader, ServerEvent, SSEReader, StreamReader
from .base import Messages, ModelResponse, flatten
from .provider import ClientOptions, HttpModel

if TYPE_CHECKING:
    from ..message import ContentPart, Msg, ToolCallPart, Usage
    from ..monitor import Budget
    from ._messages import Heard

__all__ = ["GeminiChatWrapper", "GeminiEmbeddingWrapper"]

API_VERSION = "v1beta"
PAGE_SIZE = 1000
"""Models a page of the list; the most the server gives."""
MAX_PAGES = 100

_VERSION = re.compile(r"/v\d+\w*(/|$)")
_ALREADY_THERE = re.compile(
    r"gs://|https://generativelanguage\.googleapis\.com/|https://(?:www\.)?youtube\.com/|https://youtu\.be/"
)
"""Addresses Gemini reads itself; what is elsewhere is sent along."""


class GeminiModel(HttpModel):
    """What Gemini's wrappers share: address, key, list of models."""

    provider = "gemini"
    key_variables = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    default_url = "https://generativelanguage.googleapis.com"
    method = ""
    """The action a model must support to be listed."""

    def own_headers(self) -> dict[str, str]:
        """Return the key."""
        return {} if self._api_key is None else {"x-goog-api-key": self._api_key}

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """Return what a refusal means."""
        return explain(status, body)

    async def list_models(self, *, page_size: int = PAGE_SIZE) -> list[dict[str, Any]]:
        """Return the models this wrapper's kind of call works with, as the server describes them.

        Each is an object with ``name`` (``"models/..."``), ``displayName``, ``inputTokenLimit``
        and so on. One request for every ``page_size`` models.

        Raises:
            ModelError: a page could not be had.
        """
        found: list[dict[str, Any]] = []
        query = {"pageSize": str(page_size)}
        for _ in range(MAX_PAGES):
            page = await Call(self, self._request("GET", "models", None, query)).body()
            if not isinstance(page, dict):
                raise self._unreadable(page)
            found += [
                model
                for model in page.get("models") or ()
                if self.method in (model.get("supportedGenerationMethods") or ())
            ]
            token = page.get("nextPageToken")
            if not token or token == query.get("pageToken"):
                break
            query["pageToken"] = token
        return found

    def _request(
        self, method: str, path: str, body: Any, query: Mapping[str, str] | None = None
    ) -> HttpRequest:
        query = {**(query or {}), **(self.options.default_query or {})}
        return HttpRequest(method, with_query(f"{self._root}/{path}", query), self.headers, body)

    def _unreadable(self, body: Any) -> ModelError:
        problem = Problem("bad_response", "the answer is not in the provider's form", raw=body)
        return problem.as_error(self.provider, self.model_name, attempts=1)

    @cached_property
    def _root(self) -> str:
        """The address with its version."""
        return self.base_url if _VERSION.search(self.base_url) else f"{self.base_url}/{self._api_version}"

    @cached_property
    def _path(self) -> str:
        """The model's place; its name may hold one already: ``models/...``, ``tunedModels/...``."""
        if ".." in self.model_name.split("/"):  # would lead to another place of the server
            raise ConfigError(f"model_name {self.model_name!r} names no model: '..' leads elsewhere.")
        name = quote(self.model_name, safe="/-._~")
        return name if "/" in name else f"models/{name}"

    def _options(self, client_args: dict[str, Any]) -> ClientOptions:
        version = client_args.pop("api_version", API_VERSION)
        if not isinstance(version, str) or not version:
            raise ConfigError(f"api_version must be a text such as 'v1beta', got {version!r}.")
        self._api_version = version
        return super()._options(client_args)


class GeminiReader(StreamReader):
    """Reads both forms of a streamed answer: events, and the JSON array sent where ``alt=sse`` is lost."""

    def __init__(self) -> None:
        super().__init__()
        self._reader: SSEReader | JSONArrayReader | None = None

    def _read(self, chunk: bytes, events: list[ServerEvent]) -> None:
        if self._reader is None:
            chunk = chunk.lstrip()  # blanks before the beginning say nothing
            if not chunk:
                return
            self._reader = JSONArrayReader() if chunk[:1] == b"[" else SSEReader()
        events += self._reader.feed(chunk)

    def _finish(self, events: list[ServerEvent]) -> None:
        if self._reader is not None:
            events += self._reader.close()


class GeminiChatWrapper(GeminiModel):
    """Gemini's chat models: ``await model(contents, temperature=0.2)``.

    ``contents`` is what :meth:`format` makes, a text, a list of Gemini's own contents or
    of messages in OpenAI's form. Generation options (``temperature``, ``top_p``, ``max_tokens``,
    ``stop``, ``n``, ``seed``, ``thinking_config``, ...) may be spelled in either way, or be given
    together as ``generation_config``, over which they win; ``safety_settings``,
    ``system_instruction``, ``tools``, ``tool_config`` or ``tool_choice``, and
    ``response_format`` go to their places.
    """

    model_type = "gemini_chat"
    tool_calling = "native"
    method = "generateContent"
    input_name = "contents"

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        api_key: str | None = None,
        *,
        generation_config: dict[str, Any] | None = None,
        safety_settings: list[dict[str, Any]] | None = None,
        system_instruction: Any = None,
        tools: list[dict[str, Any]] | None = None,
        tool_config: dict[str, Any] | None = None,
        base_url: str | None = None,
        client_args: dict[str, Any] | None = None,
        generate_args: dict[str, Any] | None = None,
        budget: Budget | float | None = None,
    ) -> None:
        """Prepare a wrapper; nothing is opened or sent.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: ``"gemini-2.5-flash"``, say; by default ``config_name``, with a warning.
            api_key: the key; by default ``GOOGLE_API_KEY`` or ``GEMINI_API_KEY`` of the environment.
            generation_config: for each call unless it says otherwise, as are the next four.
            safety_settings: what is blocked, ``[{"category", "threshold"}]``.
            system_instruction: a text, or a content.
            tools: in OpenAI's form or Gemini's.
            tool_config: in Gemini's form.
            base_url: the address, with or without a version (``/v1beta``).
            client_args: how to call it; see ``ClientOptions``, and ``api_version``.
            generate_args: arguments sent with each call unless the call says otherwise.
            budget: what all calls of this wrapper may use; a number means USD.

        Raises:
            ConfigError: there is no key, or an option is unknown or not valid.
        """
        defaults = {
            "generation_config": generation_config,
            "safety_settings": safety_settings,
            "system_instruction": system_instruction,
            "tools": tools,
            "tool_config": tool_config,
        }
        given = {name: value for name, value in defaults.items() if value is not None}
        super().__init__(
            config_name,
            model_name,
            api_key,
            base_url=base_url,
            client_args=client_args,
            generate_args={**given, **(generate_args or {})},
            budget=budget,
        )

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> Messages:
        """Turn messages into contents.

        Without ``me`` the whole dialogue is one user's turn of ``name: text`` lines, as in
        AgentScope v0.0.2. With it that agent's messages are the model's turns, others' the
        user's, with the speaker's name in the text; what the system says is a turn of the role
        ``system``, which a call puts where Gemini wants it.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        if me is not None:
            return [_content(hear(msg, me)) for msg in with_calls_told(flat, me)]
        parts: list[Any] = ["\n".join(f"{msg.name}: {text_of(msg)}" for msg in flat)]
        for msg in flat:
            if image_urls(msg) or not isinstance(msg.content, str):
                parts += [media_part(each.url, each.mime_type) for each in hear(msg, None).media]
        return [{"role": "user", "parts": parts}]

    async def prepare(self, messages: Messages) -> Messages:
        """Return ``messages`` with files and web images in them read; those without any as they are."""
        if not _has_media(messages):
            return messages
        turns, system = as_contents(messages)
        loaded = [{**turn, "parts": await asyncio.gather(*map(_loaded, turn["parts"]))} for turn in turns]
        return [{"role": "system", "parts": system}, *loaded] if system else loaded

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request for an answer, whole or streamed."""
        if "stream" in args:
            if args["stream"] and not stream:
                raise ConfigError("For a streamed answer use `async with model.stream(contents) as s`.")
            args = {name: value for name, value in args.items() if name != "stream"}
        body = build_chat_body(messages, args)
        if stream:
            return self._request("POST", f"{self._path}:streamGenerateContent", body, {"alt": "sse"})
        return self._request("POST", f"{self._path}:generateContent", body)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return what an answer says."""
        return parse_chat_response(body)

    def reader(self) -> GeminiReader:
        """Return what takes a streamed answer apart."""
        return GeminiReader()

    def collector(self, request: HttpRequest) -> GeminiCollector:
        """Return what gathers a streamed answer."""
        return GeminiCollector()

    def output_limit(self, body: Any) -> int | None:
        """Return the most tokens all candidates may have together, if the body says."""
        config = body.get("generationConfig", {})
        limit = config.get("maxOutputTokens")
        return None if limit is None else limit * config.get("candidateCount", 1)

    def limit_output(self, body: Any, default: int) -> int:
        """Return that limit; without one set ``default`` for each candidate."""
        config = body.setdefault("generationConfig", {})
        config.setdefault("maxOutputTokens", default)
        return self.output_limit(body) or 0

    async def count_tokens(self, contents: Messages) -> int:
        """Return how many tokens ``contents`` have, by the server's count; it is not billed.

        Raises:
            ModelError: the server did not say.
        """
        turns, system = as_contents(await self.prepare(contents))
        body = {"contents": [{"role": "user", "parts": system}, *turns] if system else turns}
        answer = await Call(self, self._request("POST", f"{self._path}:countTokens", body)).body()
        total = answer.get("totalTokens", 0) if isinstance(answer, dict) else None  # 0 is left out
        if type(total) is not int:
            raise self._unreadable(answer)
        return total


class GeminiEmbeddingWrapper(EmbeddingModel, GeminiModel):
    """Gemini's embeddings: ``await model("text", task_type="RETRIEVAL_QUERY")``, or a list of texts.

    ``embedding`` is a list of vectors in the order of the texts, also for one. ``title`` and
    ``output_dimensionality`` (or ``dimensions``) are taken as well.
    """

    model_type = "gemini_embedding"
    method = "embedContent"
    input_name = "content"

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request for the vectors of a text or of several."""
        body = build_embedding_body(messages, self._path, args)
        action = "batchEmbedContents" if "requests" in body else "embedContent"
        return self._request("POST", f"{self._path}:{action}", body)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the vectors."""
        return parse_embedding_response(body)

    def wanted_vectors(self, body: Any) -> int:
        """Return how many vectors the answer must have."""
        return len(body.get("requests", [None]))

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics: itself; the server counts no tokens."""
        return {"call_counter": 1}


def by_name(name: str, **options: Any) -> GeminiModel:
    """Return the wrapper meant by ``"gemini:NAME"``: for embeddings where the name says so, else for chat."""
    kind = GeminiEmbeddingWrapper if "embedding" in name else GeminiChatWrapper
    return kind(f"gemini:{name}", name, **options)


# -- from messages to contents --


def _content(heard: Heard) -> dict[str, Any]:
    role = {"assistant": "model", "tool": "user"}.get(heard.role, heard.role)
    parts = [
        result_part(result.name, _plain(result.content), result.id, failed=result.failed)
        for result in heard.tool_results
    ]
    if heard.text:
        parts.append({"text": heard.text})
    parts += [media_part(each.url, each.mime_type) for each in heard.media]
    parts += [_call_part(call) for call in heard.tool_calls]
    return {"role": role, "parts": parts or [{"text": ""}]}


def _plain(content: Any) -> Any:
    """Return what a tool gave back as plain JSON: texts joined, other parts in their wire form."""
    if isinstance(content, (list, tuple)) and content and hasattr(content[0], "to_dict"):
        return _texts_of(content)
    return thaw(content)


def _texts_of(parts: Sequence[ContentPart]) -> Any:
    texts = [part.text for part in parts if hasattr(part, "text")]
    return "\n".join(texts) if len(texts) == len(parts) else [part.to_dict() for part in parts]


def _call_part(call: ToolCallPart) -> dict[str, Any]:
    """Return a call as the model is to see it again: with its signature, where it had one.

    Such a call's ``raw`` is the whole part, because Gemini wants the signature of its
    thoughts back, unchanged, with the call (ai.google.dev/gemini-api/docs/thought-signatures).
    """
    if call.raw is not None and "thoughtSignature" in call.raw:
        try:
            part = orjson.loads(call.raw)
        except orjson.JSONDecodeError:
            part = None
        if (
            isinstance(part, dict)
            and isinstance(part.get("functionCall"), dict)
            and "thoughtSignature" in part
        ):
            return part
    return call_part(call.name, thaw(call.arguments), call.id)


# -- media --


def _has_media(messages: Messages) -> bool:
    if not isinstance(messages, list):
        return False
    for item in messages:
        if not isinstance(item, dict):
            continue
        parts = item.get("parts") or item.get("content")
        if not isinstance(parts, str) and isinstance(parts, (list, tuple)):
            for part in parts:
                if isinstance(part, dict) and (
                    "fileData" in part or "file_data" in part or "image_url" in part
                ):
                    return True
    return False


async def _loaded(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part with the file it names in it, unless Gemini can read it where it is."""
    file = part.get("fileData") or part.get("file_data")
    if not isinstance(file, dict):
        return part
    url = file.get("fileUri") or file.get("file_uri")
    if not isinstance(url, str) or _ALREADY_THERE.match(url):
        return part
    media = await load_media(url, file.get("mimeType") or file.get("mime_type"))
    return {"inlineData": {"mimeType": media.mime_type, "data": media.base64}}
