"""DashScope, the native API of Alibaba Cloud's Model Studio: chat, embeddings, images.

Its other dialect, ``/compatible-mode/v1``, is OpenAI's: ``openai_chat`` speaks it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ._dashscope_stream import ChatCollector
from ._dashscope_tasks import Creation, Task, parse_image_response, parse_task
from ._dashscope_wire import (
    Host,
    build_chat_request,
    build_embedding_request,
    build_image_request,
    explain,
    in_native_form,
    parse_chat_response,
    parse_embedding_response,
)
from ._kinds import EmbeddingModel, ImageModel
from ._media import is_local, load_media
from ._messages import text_of
from ._openai_messages import as_messages
from ._problem import Problem
from .base import Messages, ModelResponse, flatten
from .provider import ClientOptions, HttpModel, check_args, run_files

if TYPE_CHECKING:
    from ..message import Msg, Usage
    from ._request import HttpRequest

__all__ = [
    "DashScopeChatWrapper",
    "DashScopeImageSynthesisWrapper",
    "DashScopeTextEmbeddingWrapper",
    "by_name",
]


class DashScopeModel(HttpModel):
    """Base of DashScope's wrappers: key, address, workspace.

    ``base_url`` may be a host alone or end in ``/api/v1``. Keys belong to a region: one for
    ``dashscope-intl.aliyuncs.com`` is refused in Beijing, the default, as if it were wrong.
    ``client_args`` may also hold ``workspace``, the id of one.
    """

    provider = "dashscope"
    key_variables = ("DASHSCOPE_API_KEY",)
    default_url = "https://dashscope.aliyuncs.com/api/v1"
    url_variable = "DASHSCOPE_HTTP_BASE_URL"

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        api_key: str | None = None,
        **options: Any,
    ) -> None:
        """Prepare a wrapper; see :class:`HttpModel` for the options."""
        self._workspace: str | None = None
        super().__init__(config_name, model_name, api_key, **options)
        self.base_url = _with_version(self.base_url)
        self.host = Host(self.base_url, self.headers, self.options.default_query or {})

    def _options(self, client_args: dict[str, Any]) -> ClientOptions:
        self._workspace = client_args.pop("workspace", None)
        return super()._options(client_args)

    def own_headers(self) -> dict[str, str]:
        """Return the key and the workspace."""
        place = {"X-DashScope-WorkSpace": self._workspace} if self._workspace else {}
        return super().own_headers() | place

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """Return what a refusal means."""
        return explain(status, body)


class DashScopeChatWrapper(DashScopeModel):
    """Chat with Qwen and the other models of Model Studio.

    Arguments of a call go under ``parameters``; None means: not sent. ``prompt="..."`` is sent
    in place of messages, with ``[]`` for these, or with them. ``response_format`` also takes a
    pydantic model or a JSON schema; for "any JSON" the word must occur in the messages.

    >>> model = DashScopeChatWrapper("qwen", "qwen-plus", "sk-...")
    >>> model.build_request([{"role": "user", "content": "hi"}], {"seed": 1}, stream=False).json["parameters"]
    {'seed': 1, 'result_format': 'message'}
    """

    model_type = "dashscope_chat"
    tool_calling = "native"

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        api_key: str | None = None,
        *,
        legacy_roles: bool = False,
        multimodal: bool | None = None,
        **options: Any,
    ) -> None:
        """Prepare a wrapper; nothing is opened or sent.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: the model, in DashScope's words.
            api_key: the key; by default DASHSCOPE_API_KEY.
            legacy_roles: send roles by position, as AgentScope v0.0.2 did, not as they are.
            multimodal: the model is one that sees or hears, which has an address of its own;
                by default it is that one when messages hold images, sounds or films.
            options: ``base_url``, ``client_args``, ``generate_args``, ``budget``; see :class:`HttpModel`.

        Raises:
            ConfigError: something is missing, unknown or not valid.
        """
        super().__init__(config_name, model_name, api_key, **options)
        self.legacy_roles = legacy_roles
        self.multimodal = multimodal

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request.

        Raises:
            MessageError: ``messages`` is not a list of objects with role and content.
            ConfigError: an argument cannot be sent.
        """
        return build_chat_request(
            self.host,
            self.model_name,
            messages,
            args,
            stream=stream,
            legacy_roles=self.legacy_roles,
            multimodal=self.multimodal,
        )

    def parse_response(self, body: Any) -> ModelResponse:
        """Return what an answer says."""
        return parse_chat_response(body)

    def collector(self, request: HttpRequest) -> ChatCollector:
        """Return what gathers the events."""
        return ChatCollector(is_incremental=bool(request.json["parameters"].get("incremental_output")))

    async def prepare(self, messages: Messages) -> Messages:
        """Return ``messages`` with local files as data."""
        return await with_media(messages)

    def output_limit(self, body: Any) -> int | None:
        """Return the most tokens all answers together may have, thoughts included."""
        parameters = body["parameters"]
        limit, thoughts = parameters.get("max_tokens"), parameters.get("thinking_budget")
        if not isinstance(limit, int):
            return None
        return (limit + (thoughts if isinstance(thoughts, int) else 0)) * _answers(parameters)

    def limit_output(self, body: Any, default: int) -> int:
        """Return that limit; without one set ``default`` for each answer."""
        body["parameters"].setdefault("max_tokens", default)
        return self.output_limit(body) or default * _answers(body["parameters"])

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> list[dict[str, Any]]:
        """Turn messages into ``[{"role", "name", "content"}, ...]``; see the base.

        Images, sounds and films become content parts, tool calls and results their turns.

        Raises:
            TypeError: an item is not a message.
            MessageError: a message holds a file, which DashScope does not take.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        return [in_native_form(item) for item in as_messages(flat, me)]

    def advanced_format(self, *msgs: Msg | Sequence[Any]) -> list[dict[str, Any]]:
        """Turn messages into a single one of the system's, a line ``name: text`` for each.

        Raises:
            TypeError: an item is not a message; None is not one either.
        """
        if any(each is None for each in msgs):
            raise TypeError("advanced_format() takes messages and lists of them, not None")
        flat: list[Msg] = []
        flatten(msgs, flat)
        return [{"role": "system", "content": "\n".join(f"{msg.name}: {text_of(msg)}" for msg in flat)}]


class DashScopeTextEmbeddingWrapper(EmbeddingModel, DashScopeModel):
    """Embeddings: one vector of floats for each text, in the texts' order.

    Arguments of a call: ``dimension``, ``text_type`` (``"query"`` or ``"document"``), ``output_type``.
    """

    model_type = "dashscope_text_embedding"

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request.

        Raises:
            MessageError: ``messages`` is neither a text nor a list.
        """
        return build_embedding_request(self.host, self.model_name, messages, args)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the vectors."""
        return parse_embedding_response(body)

    def wanted_vectors(self, body: Any) -> int:
        """Return how many vectors the answer must have."""
        return len(body["input"]["texts"])

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics."""
        return {"call_counter": 1, "total_tokens": usage.total_tokens}


class DashScopeImageSynthesisWrapper(ImageModel, DashScopeModel):
    """Images from a text, by a task that is asked after until it has ended: ``image_urls``.

    URLs live for 24 hours; ``save_local=True`` puts the images into the run's files, and
    ``image_urls`` are their paths then. A call waits ``deadline_s`` seconds for its task, or
    ``timeout`` where that is None. It is not repeated when the answer to its start is lost,
    as the images may be made and billed. Sizes are written with a star: ``size="1024*1024"``.
    """

    model_type = "dashscope_image_synthesis"

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request that starts the task.

        Raises:
            MessageError: the prompt is not a text.
        """
        return build_image_request(self.host, self.model_name, messages, args)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the answer to the start of a task, which holds no image yet."""
        parse_task(body)
        return ModelResponse(raw=body)

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        """Make the images; with ``save_local=True`` put them into the run's files too."""
        check_args(args)
        args = dict(args)
        files = run_files() if args.pop("save_local", False) else None
        begun = asyncio.get_running_loop().time()
        creation = Creation(self, self.build_request(messages, args, stream=False))
        started = await creation.answer()
        task = Task(creation, self.host, started.raw)
        limit_s = self.options.deadline_s or self.options.timeout
        response = self._read(creation, await task.ended(limit_s, since=begun))
        if files is None:
            return response
        paths = [str(await files.save_image(url, maker=self.base_url)) for url in response.image_urls or ()]
        return replace(response, image_urls=paths)

    def _read(self, creation: Creation, body: Any) -> ModelResponse:
        try:
            response = parse_image_response(body)
        except Problem as problem:
            problem.status = problem.status or 200
            raise creation.failure(problem) from problem
        except (TypeError, KeyError, AttributeError) as error:
            text = f"the task's end is not in DashScope's form: {error}"
            raise creation.failure(Problem("bad_response", text, raw=body)) from error
        self.complete(response, creation.request, {})
        assert response.usage is not None
        creation.conclude(response.usage, body)
        return response

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics: itself and its images."""
        reported = raw.get("usage")
        count = reported.get("image_count") if isinstance(reported, dict) else None
        made = sum(1 for row in raw["output"].get("results", ()) if row.get("url"))
        return {"call_counter": 1, "image_count": count if type(count) is int and count >= 0 else made}


def by_name(name: str, **options: Any) -> DashScopeModel:
    """Return the model meant by ``"dashscope:NAME"``; its kind shows in its name."""
    kind: type[DashScopeModel] = DashScopeChatWrapper
    if name.startswith("text-embedding-"):
        kind = DashScopeTextEmbeddingWrapper
    elif _IMAGE_MODEL.match(name):
        kind = DashScopeImageSynthesisWrapper
    return kind(f"dashscope:{name}", name, **options)


_IMAGE_MODEL = re.compile(r"wanx|wan\d[\w.]*-(t2i|i2i)|qwen-image(?!-edit)|flux-|stable-diffusion-")


async def with_media(messages: Any) -> Any:
    """Return the messages with local files as data; the same object if there are none."""
    if not isinstance(messages, list):
        return messages
    for item in messages:
        if type(item) is dict and type(item.get("content")) is list:
            return [await _loaded(each) for each in messages]
    return messages


async def _loaded(item: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("content"), list):
        return item
    native = in_native_form(item)
    return {**native, "content": [await _loaded_part(part) for part in native["content"]]}


async def _loaded_part(part: dict[str, Any]) -> dict[str, Any]:
    for kind in ("image", "video", "audio"):
        given = part.get(kind)
        if isinstance(given, str) and is_local(given):
            return {**part, kind: (await load_media(given)).data_uri}
        if isinstance(given, list):  # a film as its pictures
            return {**part, kind: [await _loaded_url(url) for url in given]}
    return part


async def _loaded_url(url: Any) -> Any:
    return (await load_media(url)).data_uri if isinstance(url, str) and is_local(url) else url


def _with_version(url: str) -> str:
    if url.endswith("/compatible-mode/v1"):
        raise ConfigError(
            f"{url} speaks OpenAI's dialect: use model_type 'openai_chat', or a base_url in '/api/v1'."
        )
    return url if re.search(r"/api/v\d+$", url) else f"{url}/api/v1"


def _answers(parameters: Mapping[str, Any]) -> int:
    answers = parameters.get("n")
    return answers if isinstance(answers, int) and answers > 1 else 1
