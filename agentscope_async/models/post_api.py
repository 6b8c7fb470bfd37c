"""Any service that takes a POST with JSON and answers with JSON.

The small model servers of AgentScope's ``scripts`` (Flask with Transformers or ModelScope),
hosted inference endpoints, in-house gateways (AgentScope v0.0.2, ``models/post_model.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._redact import remember_secrets
from ..errors import ConfigError
from ..message import Usage
from ._call import Call
from ._messages import check_messages, text_of
from ._openai_answers import parse_chat_response, parse_image_response
from ._openai_errors import error_in, explain, problem_in
from ._openai_messages import as_messages, with_media
from ._request import HttpRequest, check_url, with_headers, with_query
from .base import Messages, ModelResponse, ModelWrapperBase, flatten
from .openai import response_format
from .provider import HttpModel, check_args

if TYPE_CHECKING:
    from ..message import Msg
    from ..monitor import Budget
    from ._problem import Problem

__all__ = ["PostAPIChatWrapper", "PostAPIDALLEWrapper", "PostAPIModelWrapperBase"]

_POST_ARGS = ("params", "headers", "timeout")


class PostAPIModelWrapperBase(HttpModel):
    """POST a text (or anything JSON can hold) and give the answer, as it is, in ``raw``.

    ``text`` is filled where the form of the answer is known: ``{"response": ...}`` of the
    Flask servers, ``generated_text`` of Hugging Face's, and chat completions. Arguments of a
    call are put into the body, but for ``params`` (the URL's query) and ``headers``.

    >>> model = PostAPIModelWrapperBase("llm", "http://127.0.0.1:8000/llm/", json_args={"max_length": 512})
    >>> model.build_request("hi", {}, stream=False).json
    {'inputs': 'hi', 'max_length': 512}
    """

    model_type = "post_api"
    provider = "post_api"
    needs_key = False
    takes_messages = False
    _is_repeatable = True

    def __init__(
        self,
        config_name: str | None = None,
        api_url: str = "",
        headers: Mapping[str, str] | None = None,
        max_length: int = 2048,
        timeout: float | None = 30,
        json_args: Mapping[str, Any] | None = None,
        post_args: Mapping[str, Any] | None = None,
        max_retries: int = 3,
        messages_key: str = "inputs",
        retry_interval: float = 1,
        *,
        model_name: str | None = None,
        api_key: str | None = None,
        client_args: dict[str, Any] | None = None,
        generate_args: dict[str, Any] | None = None,
        budget: Budget | float | None = None,
    ) -> None:
        """Prepare a wrapper; nothing is opened or sent.

        Args:
            config_name: the name agents ask for this wrapper by.
            api_url: where to send to, exactly: a last slash can matter.
            headers: sent with each request.
            max_length: tokens the model takes, for whoever builds prompts.
            timeout: seconds without a byte before an attempt is given up; None: no limit.
            json_args: put into each body.
            post_args: ``params``, ``headers`` and ``timeout``, as ``requests.post`` takes them.
            max_retries: attempts in all. Only failures that may pass are tried again.
            messages_key: where in the body the input goes.
            retry_interval: seconds to wait at least before another attempt, times those made.
            model_name: the name to show; by default ``config_name``.
            api_key: sent as ``Authorization: Bearer ...``.
            client_args: see :class:`ClientOptions`; these win over ``timeout`` and ``max_retries``.
            generate_args: put into each body unless the call says otherwise.
            budget: what all calls of this wrapper may use; a number means USD.

        Raises:
            ConfigError: something is missing, unknown or not valid.
        """
        if not isinstance(api_url, str) or not api_url:
            raise ConfigError(f"{type(self).__name__} needs api_url, the address to post to.")
        post_args = _checked_post_args(post_args or {})
        own = _waiting_options(post_args.get("timeout", timeout)) | {"max_retries": _retries(max_retries)}
        super().__init__(
            config_name,
            model_name or config_name,
            api_key,
            base_url=check_url(api_url).partition("?")[0],
            client_args=own | (client_args or {}),
            generate_args=generate_args,
            budget=budget,
        )
        if isinstance(retry_interval, bool) or not retry_interval >= 0:
            raise ConfigError(f"retry_interval must be 0 or more seconds, got {retry_interval!r}")
        check_args(json_args or {})
        remember_secrets(json_args or {})
        self.api_url = api_url
        self.max_length = max_length
        self.json_args = dict(json_args or {})
        if not isinstance(messages_key, str):
            raise ConfigError(f"messages_key must be a text, not {type(messages_key).__name__}")
        self.messages_key = messages_key
        self.retry_interval_s = retry_interval
        self._given_headers = with_headers(headers or {}, post_args.get("headers"))
        self._query = {**(self.options.default_query or {}), **(post_args.get("params") or {})}

    def own_headers(self) -> dict[str, str]:
        """Return the key and the headers given."""
        return with_headers(super().own_headers(), self._given_headers)

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request.

        Raises:
            ConfigError: an argument cannot be sent.
        """
        args = dict(args)
        query = {**self._query, **(args.pop("params", None) or {})}
        headers = with_headers(self.headers, args.pop("headers", None) or {})
        if "timeout" in args:
            raise ConfigError(
                "timeout= belongs to the wrapper, not to a call; asyncio.timeout() ends a call."
            )
        if "response_format" in args:
            args["response_format"] = response_format(args["response_format"])
        body = {self.messages_key: messages, **self.json_args, **args}
        return HttpRequest("POST", with_query(self.api_url, query), headers, body, self._is_repeatable)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the answer, with its text if its form is known."""
        return parse_any_response(body)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """Return what a refusal means."""
        return explain(status, body)

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        check_args(args)
        messages = await self.prepare(messages)
        return await PatientCall(self, self.build_request(messages, args, stream=False)).answer()

    _stream = ModelWrapperBase._stream  # the answer comes whole, and is handed out then

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics: its tokens only where the service tells them."""
        return {"call_counter": 1} if usage.estimated else super().metrics(usage, raw)

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> Any:
        """Turn messages into one text, a line ``name: text`` for each.

        Raises:
            TypeError: an item is not a message.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        return "\n".join(f"{msg.name}: {text_of(msg)}" for msg in flat)


class PostAPIChatWrapper(PostAPIModelWrapperBase):
    """POST a list of messages; the answer is a chat completion, alone or as ``data.response``."""

    model_type = "post_api_chat"
    takes_messages = True

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request.

        Raises:
            MessageError: ``messages`` is not a list of objects with role and content.
            ConfigError: an argument cannot be sent.
        """
        return super().build_request(check_messages(messages), args, stream=stream)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return what the chat completion says."""
        return replace(parse_chat_response(unwrapped(body)), raw=body)

    async def prepare(self, messages: Messages) -> Messages:
        """Return ``messages`` with local files as data."""
        return await with_media(messages)

    def output_limit(self, body: Any) -> int | None:
        """Return the most tokens the answer may have, where the body says so in OpenAI's way."""
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return limit if isinstance(limit, int) else None

    def limit_output(self, body: Any, default: int) -> int:
        """Return that limit; without one ``default``, which is not sent: who knows what is understood."""
        return self.output_limit(body) or default

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> list[dict[str, Any]]:
        """Turn messages into ``[{"role", "name", "content"}, ...]``, as for OpenAI.

        Raises:
            TypeError: an item is not a message.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        return as_messages(flat, me)


class PostAPIDALLEWrapper(PostAPIModelWrapperBase):
    """POST a prompt; the answer is that of OpenAI's image models, alone or as ``data.response``.

    A call is not repeated when its answer is lost, as the images may have been made and billed.
    """

    model_type = "post_api_dall_e"
    _is_repeatable = False

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the images."""
        return replace(parse_image_response(unwrapped(body)), raw=body)

    def format(self, *msgs: Any, me: str | None = None) -> Any:
        """Refuse: image models take a text.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"{type(self).__name__} takes a text and doesn't need to format it.")


class PatientCall(Call):
    """A call that waits ``retry_interval`` before another attempt, twice that before the next, at least.

    A deadline, which knows nothing of it, is not waited past.
    """

    __slots__ = ()

    def _wait_s(self, problem: Problem) -> float:
        wait_s = super()._wait_s(problem)
        assert isinstance(self.model, PostAPIModelWrapperBase)
        if self.model.options.deadline_s is not None:
            return wait_s
        return max(wait_s, self.model.retry_interval_s * self.attempts)


def parse_any_response(body: Any) -> ModelResponse:
    """Return whatever came, with its text if its form is known.

    Raises:
        Problem: it says that there was an error, under status 200.
    """
    inner = unwrapped(body)
    match inner:
        case {"choices": [{"message": {"content": str()}}, *_]}:
            return replace(parse_chat_response(inner), raw=body)
        case (
            {"choices": [{"text": str(text)}, *_]}
            | {"response": str(text)}
            | {"generated_text": str(text)}
            | [{"generated_text": str(text)}, *_]
        ):
            return ModelResponse(text, raw=body, usage=_flask_usage(inner))
        case {"error": error} if error and (found := error_in(body)) is not None:
            raise problem_in(found, raw=body)
    return ModelResponse(raw=body)


def unwrapped(body: Any) -> Any:
    """Return what is at ``data.response``, AgentScope v0.0.2's envelope, or the body itself."""
    match body:
        case {"data": {"response": dict(inner)}}:
            return inner
    return body


def _flask_usage(body: Any) -> Usage | None:
    """Return the tokens as the Flask servers count them: ``n_token_response`` is prompt and answer."""
    match body:
        case {"n_token_prompt": int(prompt), "n_token_response": int(whole)} if 0 <= prompt <= whole:
            return Usage(prompt, whole - prompt)
    return None


def _checked_post_args(post_args: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in post_args:
        if name not in _POST_ARGS:
            raise ConfigError(f"post_args has no {name!r}; known: {', '.join(_POST_ARGS)}.")
    return post_args


def _waiting_options(timeout: Any) -> dict[str, Any]:
    """Return the limits of a ``timeout``: seconds, None, or a pair: to connect and to read."""
    if isinstance(timeout, (tuple, list)) and len(timeout) == 2:
        return {"connect_timeout": timeout[0], "timeout": timeout[1]}
    return {"timeout": timeout}


def _retries(attempts: Any) -> int:
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 0:
        raise ConfigError(f"max_retries must be 0 or more, got {attempts!r}")
    return max(attempts - 1, 0)
