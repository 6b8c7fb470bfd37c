"""The routes of :func:`openai_api`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ..errors import BadRequest, ConfigError, ContextTooLong, MessageError
from ._openai_agents import Offer, Tally, own_model, takes_tools, tell
from ._openai_answers import Answer, Chunks
from ._openai_errors import BadParameter, Fault, UnknownModel, fault_of, fault_of_http, fault_of_validation
from ._openai_messages import arguments_for, check_tools, has_tools, read_messages
from ._openai_schema import Ask, Completion, ErrorAnswer, ModelCard, ModelCards
from .problems import Refusal
from .talks import Place, Talk, Talks
from .turns import TurnStream, capped, check_is_json, runtime_of, while_connected, whole_reply

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["make_router"]

OWNER = "agentscope-async"
_FAULTS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "not taken: the request is not valid, or not allowed"},
    "5XX": {"model": ErrorAnswer, "description": "the turn failed; see Retry-After, if there is one"},
}
_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "a chunk as JSON; of the last one: [DONE]"}},
    "required": ["data"],
}
_STREAM = {"text/event-stream": {"itemSchema": _EVENT}}


def make_router(
    offers: Mapping[str, Offer],
    *,
    token: str | None,
    auth: Callable[..., Any] | None,
    talks: Talks,
    max_body_bytes: int,
) -> APIRouter:
    """Return the router; see ``openai_api``."""
    router = APIRouter(
        prefix="/v1",
        route_class=_route_class(max_body_bytes, token),
        dependencies=[] if auth is None else [Depends(auth)],
        responses=_FAULTS,
        tags=["OpenAI"],
    )
    _add_models(router, offers)
    _add_completions(router, offers, talks)
    return router


def _add_models(router: APIRouter, offers: Mapping[str, Offer]) -> None:
    created = int(time.time())
    cards = {name: ModelCard(id=name, object="model", created=created, owned_by=OWNER) for name in offers}

    @router.get("/models", operation_id="openai_models", summary="What can be talked to")
    async def models() -> ModelCards:
        return ModelCards(object="list", data=list(cards.values()))

    @router.get("/models/{model}", operation_id="openai_model", summary="One of these")
    async def model(model: str) -> ModelCard:
        if model not in cards:
            raise UnknownModel(model)
        return cards[model]


def _add_completions(router: APIRouter, offers: Mapping[str, Offer], talks: Talks) -> None:
    @router.post(
        "/chat/completions",
        response_model=Completion,
        response_model_exclude_unset=True,
        responses={200: {"content": _STREAM}},
        openapi_extra=_body_for(list(offers)),
        operation_id="openai_chat",
        summary="Go on with a conversation",
    )
    async def completions(request: Request, ask: Annotated[Ask, Body()]) -> Response:
        runtime = runtime_of(request)
        if ask.model not in offers:
            raise UnknownModel(ask.model)
        with talks.place() as place:
            turn = await while_connected(_Turn.prepare(ask, offers[ask.model], place), request.receive)
        if ask.stream:
            return turn.stream(runtime)
        return await turn.whole(runtime, request)


def _body_for(names: list[str]) -> dict[str, Any]:
    """Return what the schema of the body says besides: which models there are."""
    schema = {
        "properties": {"model": {"type": "string", "enum": names}},
        "examples": [{"model": names[0], "messages": [{"role": "user", "content": "Hello"}]}],
    }
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


class _Turn:
    """One request: the agent made for it, and what it is asked."""

    def __init__(self, talk: Talk, answer: Answer, told: list[str]) -> None:
        """Answer by ``talk``, whose model was told the parameters of these names."""
        self._talk = talk
        self._answer = answer
        self._told = told

    @classmethod
    async def prepare(cls, ask: Ask, offer: Offer, place: Place) -> _Turn:
        """Make the agent and let it remember all but the last message.

        Raises:
            BadParameter: the client asks for what this agent cannot do.
        """
        agent = await offer.fresh()
        _check(ask, agent)
        tally = Tally()
        model = own_model(agent)
        args = {} if model is None else arguments_for(model, ask)
        tell(agent, args, tally)
        *history, last = _messages(ask, agent.name)
        if history:
            await agent.observe(history)
        options = ask.stream_options
        answer = Answer(
            ask.model,
            tally,
            shows_calls=bool(ask.tools),
            has_usage=options is not None and options.include_usage is True,
        )
        return cls(Talk(place, agent, last, owner=""), answer, sorted(args))

    async def whole(self, runtime: Runtime, request: Request) -> Response:
        """Have the turn, and answer with the reply."""
        try:
            reply = await whole_reply(self._talk, runtime, request.receive)
        except Refusal:
            return self._fault().response()
        return JSONResponse(self._answer.whole(reply))

    def stream(self, runtime: Runtime) -> Response:
        """Have the turn, and answer while it speaks."""
        begin = partial(self._talk.begin, runtime, is_heard=True)
        return TurnStream(self._talk, Chunks(self._talk, self._answer, self._fault), begin=begin)

    def _fault(self) -> Fault:
        """Return what the client is told of a turn that failed: also whether it was to blame."""
        error = self._talk.error
        if error is None:
            return fault_of(Refusal(500, "cancelled", "The turn was cancelled."))
        is_refused = isinstance(error, (BadRequest, ConfigError)) and not isinstance(error, ContextTooLong)
        if self._told and is_refused:
            return fault_of(
                Refusal(400, "invalid_value", f"The model does not take this: {', '.join(self._told)}.")
            )
        return fault_of(error)


def _check(ask: Ask, agent: Any) -> None:
    check_tools(ask)
    if has_tools(ask) and not takes_tools(agent):
        raise BadParameter("tools", f"{ask.model!r} takes no tools of its clients.", "unsupported_parameter")
    wants_form = ask.response_format is not None and ask.response_format.type != "text"
    if wants_form and own_model(agent) is None:
        raise BadParameter("response_format", f"{ask.model!r} answers in text.", "unsupported_parameter")


def _messages(ask: Ask, me: str) -> list[Any]:
    try:
        return read_messages(ask, me)
    except MessageError as error:
        raise BadParameter("messages", f"A message cannot be read: {error}") from error


def _route_class(max_body_bytes: int, token: str | None) -> type[APIRoute]:
    """Return routes that check the token, refuse large bodies, and answer errors in OpenAI's form."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    _check_token(request, token)
                    check_is_json(request)
                    return await handle(Request(request.scope, capped(request, max_body_bytes)))
                except RequestValidationError as error:
                    return fault_of_validation(error.errors()).response()
                except HTTPException as error:
                    return _fault_of_http(error).response()
                except Exception as error:
                    return fault_of(error).response()

            return guarded

    return Route


def _check_token(request: Request, token: str | None) -> None:
    if token is None:
        return
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not compare_digest(shown.strip().encode(), token.encode()):
        raise Refusal(401, "invalid_api_key", "Incorrect API key provided.")


def _fault_of_http(error: HTTPException) -> Fault:
    cause = error.__cause__
    if error.status_code == 400 and cause is not None:  # FastAPI makes this of what fails in reading the body
        if isinstance(cause, Refusal):
            return fault_of(cause)
        return fault_of(Refusal(400, "invalid_json", "The body is not JSON in UTF-8."))
    return fault_of_http(error.status_code, error.detail, error.headers)
