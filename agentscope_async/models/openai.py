"""OpenAI, Azure OpenAI, and every server that speaks OpenAI's dialect: vLLM, FastChat, llama.cpp, ...

Wire format: platform.openai.com/docs/api-reference, as openai 3.54 sends it;
learn.microsoft.com/azure/ai-services/openai/reference for Azure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from ..errors import ConfigError, MessageError
from ..tokens import get_openai_max_length
from ._kinds import EmbeddingModel, ImageModel
from ._messages import check_messages
from ._openai_answers import parse_chat_response, parse_embedding_response, parse_image_response
from ._openai_errors import explain
from ._openai_messages import as_messages, with_media
from ._openai_stream import ChatCollector
from ._request import HttpRequest
from ._schema import wanted_schema
from .base import Messages, ModelResponse, flatten
from .provider import HttpModel, check_args, run_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..message import Msg, Usage
    from ..monitor import Budget
    from ._problem import Problem

__all__ = ["OpenAIChatWrapper", "OpenAIDALLEWrapper", "OpenAIEmbeddingWrapper", "by_name"]


class OpenAIModel(HttpModel):
    """Base of OpenAI's wrappers: keys, addresses, headers."""

    provider = "openai"
    key_variables = ("OPENAI_API_KEY",)
    default_url = "https://api.openai.com/v1"
    url_variable = "OPENAI_BASE_URL"
    path: ClassVar[str] = ""

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        client_args: dict[str, Any] | None = None,
        generate_args: dict[str, Any] | None = None,
        budget: Budget | float | None = None,
        *,
        base_url: str | None = None,
    ) -> None:
        """Prepare a wrapper; nothing is opened or sent.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: the model, in the provider's words; by default ``config_name``, with a warning.
            api_key: the key; by default OPENAI_API_KEY, for Azure AZURE_OPENAI_API_KEY. A server
                named by ``base_url`` may need none.
            organization: by default OPENAI_ORG_ID or OPENAI_ORGANIZATION.
            client_args: see :class:`ClientOptions`; also ``organization``, ``project``
                (OPENAI_PROJECT_ID), and for Azure ``azure_endpoint``, ``api_version``
                (OPENAI_API_VERSION) and ``azure_deployment`` (by default ``model_name``).
            generate_args: arguments sent with each call unless the call says otherwise.
            budget: what all calls of this wrapper may use; a number means USD.
            base_url: the address of a compatible server, with its ``/v1``; by default OPENAI_BASE_URL.

        Raises:
            ConfigError: something is missing, unknown or not valid.
        """
        client_args = dict(client_args or {})
        own = {name: client_args.pop(name, None) for name in _OWN_OPTIONS}
        is_azure = own["azure_endpoint"] is not None
        if is_azure:
            base_url, api_key = (
                _azure_address(own, model_name or config_name),
                _azure_key(api_key, client_args),
            )
        super().__init__(
            config_name,
            model_name,
            api_key,
            base_url=base_url,
            client_args=client_args,
            generate_args=generate_args,
            budget=budget,
        )
        self._is_azure = is_azure
        self._organization = organization or own["organization"]
        self._project = own["project"]
        self.url = self.address(self.path, {"api-version": _azure_version(own)} if is_azure else None)

    def own_headers(self) -> dict[str, str]:
        """Return the key, and on whose behalf it is used."""
        if self._is_azure:
            return {"api-key": str(self._api_key)}
        env = os.environ
        organization = self._organization or env.get("OPENAI_ORG_ID") or env.get("OPENAI_ORGANIZATION")
        project = self._project or env.get("OPENAI_PROJECT_ID")
        said = {"OpenAI-Organization": organization, "OpenAI-Project": project}
        return super().own_headers() | {name: value for name, value in said.items() if value}

    @property
    def max_length(self) -> int | None:
        """The tokens the model takes, prompt and answer together, or None if that is not known."""
        try:
            return get_openai_max_length(self.model_name)
        except KeyError:
            return None

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """Return what a refusal means."""
        return explain(status, body)


class OpenAIChatWrapper(OpenAIModel):
    """Chat completions.

    Arguments of a call go into the request as they are, those only some servers know too
    (``top_k``, ``chat_template_kwargs``; ``extra_body={...}`` is spread out). None means: not sent.
    ``response_format`` also takes a pydantic model or a JSON schema.

    >>> model = OpenAIChatWrapper("llama", "llama-3", base_url="http://127.0.0.1:8000/v1")
    >>> model.url
    'http://127.0.0.1:8000/v1/chat/completions'
    """

    model_type = "openai_chat"
    tool_calling = "native"
    path = "/chat/completions"

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request.

        Raises:
            MessageError: ``messages`` is not a list of objects with role and content.
            ConfigError: an argument cannot be sent.
        """
        body = build_chat_body(self.model_name, messages, args, stream=stream)
        return HttpRequest("POST", self.url, self.headers, body)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return what a chat completion says."""
        return parse_chat_response(body)

    def collector(self, request: HttpRequest) -> ChatCollector:
        """Return what gathers the chunks."""
        answers = request.json.get("n")
        return ChatCollector(answers if isinstance(answers, int) else 1)

    async def prepare(self, messages: Messages) -> Messages:
        """Return ``messages`` with local files as data."""
        return await with_media(messages)

    def output_limit(self, body: Any) -> int | None:
        """Return the most tokens all answers together may have."""
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return limit * _answers(body) if isinstance(limit, int) else None

    def limit_output(self, body: Any, default: int) -> int:
        """Return that limit; without one set ``default`` for each answer."""
        limit = self.output_limit(body)
        if limit is None:
            body["max_completion_tokens" if _REASONS.search(self.model_name) else "max_tokens"] = default
            limit = default * _answers(body)
        return limit

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> list[dict[str, Any]]:
        """Turn messages into ``[{"role", "name", "content"}, ...]``; see the base.

        Images, sounds, films and files become content parts, tool calls and results their turns.

        Raises:
            TypeError: an item is not a message.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        return as_messages(flat, me)


class OpenAIEmbeddingWrapper(EmbeddingModel, OpenAIModel):
    """Embeddings: one vector of floats for each text, in the texts' order."""

    model_type = "openai_embedding"
    path = "/embeddings"

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request; base64 is asked for, a quarter of the bytes of numbers.

        Raises:
            MessageError: ``messages`` is neither a text nor a list.
        """
        if not isinstance(messages, (str, list)) or not messages:
            raise MessageError("texts", "must be a text or a list of texts, not empty")
        body = {"model": self.model_name, "input": messages, "encoding_format": "base64"}
        add_args(body, args)
        return HttpRequest("POST", self.url, self.headers, body)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the vectors."""
        return parse_embedding_response(body)

    def wanted_vectors(self, body: Any) -> int:
        """Return how many vectors the answer must have."""
        given = body["input"]
        return 1 if isinstance(given, str) or isinstance(given[0], int) else len(given)

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics."""
        return {
            "call_counter": 1,
            "prompt_tokens": usage.input_tokens,
            "total_tokens": usage.total_tokens,
        }


class OpenAIDALLEWrapper(ImageModel, OpenAIModel):
    """Images from a text: ``image_urls``, or ``images_b64`` from models that give no addresses.

    A call is not repeated when its answer is lost, as the images may have been made and billed.
    """

    model_type = "openai_dall_e"
    path = "/images/generations"

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request.

        Raises:
            MessageError: the prompt is not a text.
        """
        if not isinstance(messages, str):
            raise MessageError("prompt", f"must be a text, not {type(messages).__name__}")
        body = {"model": self.model_name, "prompt": messages}
        add_args(body, args)
        return HttpRequest("POST", self.url, self.headers, body, is_repeatable=False)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the images."""
        return parse_image_response(body)

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        """Make the images; with ``save_local=True`` put them into the run's files too."""
        save_local = args.pop("save_local", False)
        files = run_files() if save_local else None
        response = await super()._call(messages, args)
        if files is not None:
            images = [*(response.image_urls or ()), *map(_data_uri, response.images_b64 or ())]
            paths = [str(await files.save_image(image, maker=self.base_url)) for image in images]
            vars(response)["image_urls"] = paths  # ours still, nobody has seen it
        return response

    def complete(self, response: ModelResponse, request: HttpRequest, headers: Mapping[str, str]) -> None:
        """Fill what was left out: the size of the images among it, which newer models tell themselves."""
        super().complete(response, request, headers)
        if "size" in request.json:
            response.raw.setdefault("size", request.json["size"])

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics: itself, and its images under their size, ``1024*1024``."""
        size = raw.get("size") or ("1024x1024" if self.model_name.startswith("dall-e") else "")
        counts = {"call_counter": 1.0}
        if _SIZE.fullmatch(size):
            counts[size.replace("x", "*")] = len(raw["data"])
        return counts


def by_name(name: str, **options: Any) -> OpenAIChatWrapper:
    """Return the chat model meant by ``"openai:NAME"``; ``options`` are those of the wrapper."""
    return OpenAIChatWrapper(f"openai:{name}", name, **options)


def build_chat_body(
    model: str, messages: Messages, args: Mapping[str, Any], *, stream: bool
) -> dict[str, Any]:
    """Return the body of a chat completion.

    Raises:
        MessageError: ``messages`` is not a list of objects with role and content.
        ConfigError: ``stream`` among the arguments, or an unknown form of ``response_format``.
    """
    body: dict[str, Any] = {"model": model, "messages": check_messages(messages)}
    if args:
        add_args(body, args)
        if "response_format" in body:
            body["response_format"] = response_format(body["response_format"])
        if body.pop("stream", stream) is not stream:
            raise ConfigError("Streams are asked for by model.stream(...), not by stream=True.")
    if stream:
        body["stream"] = True
        body.setdefault("stream_options", {"include_usage": True})
    return body


def add_args(body: dict[str, Any], args: Mapping[str, Any]) -> None:
    """Put the arguments of a call into the body, but for those that are None."""
    for name, value in args.items():
        if name == "extra_body":
            check_args(value or {})
            add_args(body, value or {})
        elif value is not None:
            body[name] = value


def response_format(wanted: Any) -> Any:
    """Return ``response_format`` in OpenAI's form, in which it may be given."""
    if isinstance(wanted, dict) and (
        "json_schema" in wanted or wanted.get("type") in ("text", "json_object")
    ):
        return wanted
    schema = wanted_schema(wanted)
    assert schema is not None
    inner: dict[str, Any] = {"name": schema.name, "schema": schema.schema}
    if schema.is_strict:
        inner["strict"] = True
    return {"type": "json_schema", "json_schema": inner}


_OWN_OPTIONS = ("organization", "project", "azure_endpoint", "azure_deployment", "api_version")
_REASONS = re.compile(r"(^|[/:])(o\d|gpt-([5-9]|\d\d))")
"""Models that refuse ``max_tokens`` and want ``max_completion_tokens``."""
_SIZE = re.compile(r"\d+x\d+")


def _azure_address(own: Mapping[str, Any], model: str | None) -> str:
    deployment = own["azure_deployment"] or model
    if not deployment:
        raise ConfigError("Azure needs the name of a deployment: azure_deployment=... or model_name=...")
    return f"{own['azure_endpoint'].rstrip('/')}/openai/deployments/{quote(deployment, safe='')}"


def _azure_key(given: str | None, client_args: dict[str, Any]) -> str:
    key = given or client_args.pop("api_key", None) or os.environ.get("AZURE_OPENAI_API_KEY")
    if not key:
        raise ConfigError("Azure needs a key: api_key=... or the environment variable AZURE_OPENAI_API_KEY.")
    return str(key)


def _azure_version(own: Mapping[str, Any]) -> str:
    version = own["api_version"] or os.environ.get("OPENAI_API_VERSION")
    if not version:
        raise ConfigError("Azure needs client_args={'api_version': ...} or the variable OPENAI_API_VERSION.")
    return str(version)


def _answers(body: dict[str, Any]) -> int:
    answers = body.get("n")
    return answers if isinstance(answers, int) and answers > 1 else 1


def _data_uri(image: str) -> str:
    return f"data:image/png;base64,{image}"
