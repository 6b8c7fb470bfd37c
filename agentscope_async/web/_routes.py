"""The routes of :func:`expose`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

from fastapi import APIRouter, Body, Depends, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from ..errors import NoRuntimeError
from ..message import Msg
from ..runtime import Runtime
from ._shapes import (
    CARRIES_SESSION,
    EVENTS,
    PROBLEMS,
    SESSION,
    SESSION_HEADER,
    SESSION_ID,
    EventId,
    Health,
    ProblemAnswer,
    Said,
    SessionId,
)
from .embedding import is_shared
from .problems import Refusal, problem_of, refusal_of
from .sessions import Desk, Session, Sessions, record_kind
from .socket import SocketTalk, check_origin
from .streaming import Events, read_event_id
from .talks import Place, Talk, Talks
from .turns import TurnStream, capped, check_is_json, runtime_of, while_connected, whole_reply

if TYPE_CHECKING:
    from ..keyed import KeyedAgents
    from ..keyed_agent import KeyedAgent

__all__ = ["make_router"]

P = ParamSpec("P")
_SESSION_PROBLEMS: dict[int | str, dict[str, Any]] = {
    each: PROBLEMS[each] for each in (400, 404, 422, 500, 503)
}


def make_router(
    targets: Mapping[str, Any],
    *,
    sessions: Sessions,
    auth: Callable[..., Any] | None,
    talks: Talks,
    max_body_bytes: int,
    origins: frozenset[str],
) -> APIRouter:
    """Return the router; see ``expose``."""
    offered = [
        _Exposed(name, target, sessions, Desk(sessions.expire_after_s), talks)
        for name, target in targets.items()
    ]
    router = APIRouter(
        route_class=_route_class(max_body_bytes),
        generate_unique_id_function=_operation_id,
        lifespan=_check_names(offered),
    )
    user = auth or _nobody
    for exposed in offered:
        _add_post(router, exposed, user)
        _add_stream(router, exposed, user)
        _add_socket(router, exposed, user, max_body_bytes, origins)
        if not exposed.is_shared:
            _add_history(router, exposed, user)
            _add_deletion(router, exposed, user)
    _add_health(router, talks)
    return router


@dataclass(frozen=True)
class _Exposed:
    """One agent, or one for each session, under a name."""

    name: str
    target: Any
    sessions: Sessions
    desk: Desk
    talks: Talks

    @property
    def is_shared(self) -> bool:
        return is_shared(self.target)

    def agents(self, runtime: Runtime) -> KeyedAgents:
        """Return the agents of all sessions."""
        kept = self.sessions
        return runtime.agents(
            self.target, name=self.name, live=kept.live, idle_after_s=kept.idle_after_s, store=kept.store
        )

    def agent(self, runtime: Runtime, session: Session) -> KeyedAgent:
        """Return the agent of a session; once that is deleted nothing of it is saved any more."""
        agents = self.agents(runtime)
        return agents.get(session.key, record=record_kind(agents))

    async def enter(self, runtime: Runtime, id: str | None, user: str | None) -> Session | None:
        """Return the session of that id for a message, or a new one; None: a shared agent has none."""
        if self.is_shared:
            return None
        agents = self.agents(runtime)
        if id is None:
            return await self.desk.begin(agents, user)
        return await self.desk.find(agents, id, user, is_message=True)

    async def visit(self, runtime: Runtime, id: str, user: str | None) -> Session:
        """Return the session of that id for one who says nothing in it."""
        return await self.desk.find(self.agents(runtime), id, user, is_message=False)

    def talk(
        self,
        place: Place,
        runtime: Runtime,
        session: Session | None,
        user: str | None,
        msg: Msg,
        **options: bool,
    ) -> Talk:
        """Return a turn that has not begun; the options are those of ``Talk``."""
        agent = self.target if session is None else self.agent(runtime, session)
        owner = self.owner(session, user)
        return Talk(place, agent, msg, owner=owner, **options)

    def owner(self, session: Session | None, user: str | None) -> str:
        """Return whose turns those of a session are; of a shared agent, all those of a user."""
        return f"{self.name} {session.key}" if session is not None else f"{self.name} of {user!r}"


def _add_post(router: APIRouter, exposed: _Exposed, auth: Callable[..., Any]) -> None:
    @router.post(
        f"/{exposed.name}",
        response_model=Msg,
        responses={**PROBLEMS, 200: {"headers": CARRIES_SESSION}},
        summary=f"Ask {exposed.name}",
    )
    @_answering
    async def ask(
        request: Request,
        response: Response,
        msg: Annotated[Said, Body()],
        session_id: SessionId = None,
        user: str | None = Depends(auth),
    ) -> Msg:
        runtime = runtime_of(request)
        with exposed.talks.place() as place:
            session = await while_connected(exposed.enter(runtime, session_id, user), request.receive)
            talk = exposed.talk(place, runtime, session, user, msg)
        response.headers.update(_session_header(session))
        return await whole_reply(talk, runtime, request.receive)


def _add_stream(router: APIRouter, exposed: _Exposed, auth: Callable[..., Any]) -> None:
    @router.post(
        f"/{exposed.name}/stream",
        response_class=Response,
        responses={
            **PROBLEMS,
            200: {"content": EVENTS, "headers": CARRIES_SESSION},
            410: {"model": ProblemAnswer, "description": "the turn is not kept any more"},
        },
        summary=f"Ask {exposed.name}, and hear the answer while it is given",
    )
    @_answering
    async def stream(
        request: Request,
        msg: Annotated[Said, Body()],
        session_id: SessionId = None,
        last_event_id: EventId = None,
        user: str | None = Depends(auth),
    ) -> Response:
        runtime = runtime_of(request)
        if last_event_id is not None:
            return await follow_again(runtime, last_event_id, session_id, user)
        with exposed.talks.place() as place:
            session = await while_connected(exposed.enter(runtime, session_id, user), request.receive)
            talk = exposed.talk(place, runtime, session, user, msg, is_resumable=True)
        begin = partial(talk.begin, runtime, is_heard=True)
        return TurnStream(talk, Events(talk.id), begin=begin, headers=_session_header(session))

    async def follow_again(
        runtime: Runtime, event_id: str, session_id: str | None, user: str | None
    ) -> Response:
        turn, number = read_event_id(event_id)
        session = None
        if not exposed.is_shared:
            if session_id is None:
                raise Refusal(400, "bad_session", f"Last-Event-ID goes with {SESSION}.")
            session = await exposed.visit(runtime, session_id, user)
        talk = exposed.talks.find(turn, exposed.owner(session, user), after=number)
        return TurnStream(talk, Events(talk.id), begin=None, after=number, headers=_session_header(session))


def _add_history(router: APIRouter, exposed: _Exposed, auth: Callable[..., Any]) -> None:
    @router.get(
        f"/{exposed.name}/history",
        response_model=list[Msg],
        responses=_SESSION_PROBLEMS,
        summary="What was said in this session, oldest first",
    )
    @_answering
    async def history(
        request: Request,
        session_id: Annotated[str, SESSION_ID, SESSION_HEADER],
        last: Annotated[int, Query(ge=1, le=1000, description="so many of the latest")] = 100,
        user: str | None = Depends(auth),
    ) -> list[Msg]:
        runtime = runtime_of(request)
        session = await exposed.visit(runtime, session_id, user)
        state = await exposed.agents(runtime).saved(session.key)
        units = (state or {}).get("memory") or []
        return [Msg.from_dict(each) for each in units if _is_said(each)][-last:]


def _add_deletion(router: APIRouter, exposed: _Exposed, auth: Callable[..., Any]) -> None:
    @router.delete(
        f"/{exposed.name}/history",
        status_code=204,
        response_class=Response,
        responses=_SESSION_PROBLEMS,
        summary="Delete this session, and all that was said in it",
    )
    @_answering
    async def delete(
        request: Request,
        session_id: Annotated[str, SESSION_ID, SESSION_HEADER],
        user: str | None = Depends(auth),
    ) -> Response:
        runtime = runtime_of(request)
        session = await exposed.visit(runtime, session_id, user)
        # Nothing is awaited between these: the deletion has its place in line before whoever comes now.
        exposed.talks.discard(exposed.owner(session, user), "The conversation was deleted.")
        await exposed.agent(runtime, session).delete()
        return Response(status_code=204)


def _add_socket(
    router: APIRouter,
    exposed: _Exposed,
    auth: Callable[..., Any],
    max_bytes: int,
    origins: frozenset[str],
) -> None:
    reader: TypeAdapter[Msg] = TypeAdapter(Said)

    @router.websocket(f"/{exposed.name}/ws")
    async def socket(websocket: WebSocket, user: str | None = Depends(auth)) -> None:
        if not check_origin(websocket, origins):
            raise HTTPException(403, "This web page may not open the websocket.")
        runtime = runtime_of(websocket)
        await websocket.accept()

        async def enter(id: str | None) -> tuple[str | None, Callable[[Msg], Awaitable[Talk]]]:
            session = await exposed.enter(runtime, id, user)
            own_id = None if session is None else session.id

            async def make(msg: Msg) -> Talk:
                runtime_of(websocket)  # which may have been left meanwhile
                with exposed.talks.place() as place:
                    # Again for each message: the session may be deleted by now.
                    session = await exposed.enter(runtime, own_id, user)
                    return exposed.talk(place, runtime, session, user, msg, takes_input=True)

            return own_id, make

        def begin(talk: Talk) -> None:
            talk.begin(runtime, is_heard=True)

        talk = SocketTalk(
            websocket, enter=enter, begin=begin, read_msg=reader.validate_python, max_bytes=max_bytes
        )
        await talk.serve()


def _add_health(router: APIRouter, talks: Talks) -> None:
    @router.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health(request: Request) -> Response:
        try:
            status = "ok" if runtime_of(request).is_open else "closing"
        except (NoRuntimeError, Refusal):
            status = "closing"
        found = Health(status=status, turns=talks.running, max_turns=talks.max_turns)
        return JSONResponse(found.model_dump(), 200 if status == "ok" else 503)


# -- shared by all --


async def _nobody() -> None:
    """Stands for ``auth`` where there is none."""


def _check_names(offered: Sequence[_Exposed]) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan that fails if another factory has one of our names, before any client finds out."""

    @asynccontextmanager
    async def checked(app: Any) -> AsyncIterator[None]:
        runtime = getattr(app.state, "runtime", None)
        if isinstance(runtime, Runtime):
            for each in offered:
                if not each.is_shared:
                    each.agents(runtime)
        yield

    return checked


def _operation_id(route: Any) -> str:
    """Name an operation by its address, which is its own also if a router is included twice."""
    return f"{route.name}{route.path_format.replace('/', '_')}"


def _is_said(unit: dict[str, Any]) -> bool:
    """Whether it is for clients: no thought, and nothing of the system's."""
    return unit.get("__type", "Tht") != "Tht" and unit.get("role") != "system"


def _answering(
    endpoint: Callable[P, Coroutine[Any, Any, Any]],
) -> Callable[P, Coroutine[Any, Any, Any]]:
    """Answer errors of an endpoint as JSON without internals; those of dependencies are the application's."""

    @wraps(endpoint)
    async def answering(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return await endpoint(*args, **kwargs)
        except Exception as error:
            answer = _answer(error)
            carried = kwargs.get("response")  # a session that was issued, and what dependencies add
            if isinstance(carried, Response):
                answer.raw_headers.extend(carried.raw_headers)
            return answer

    return answering


def _session_header(session: Session | None) -> dict[str, str]:
    return {} if session is None else {SESSION: session.id}


def _route_class(max_body_bytes: int) -> type[APIRoute]:
    """Return routes that refuse large or invalid bodies, in our form and without repeating them."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    check_is_json(request)
                    return await handle(_Asked(request.scope, capped(request, max_body_bytes)))
                except RequestValidationError as error:
                    return _answer(refusal_of(error.errors()))
                except _Unreadable as error:
                    return _answer(error.refusal)
                except Refusal as refusal:
                    return _answer(refusal)

            return guarded

    return Route


class _Asked(Request):
    """A request whose body says in our terms why it cannot be read."""

    async def body(self) -> bytes:
        try:
            return await super().body()
        except Refusal as refusal:
            raise _Unreadable(refusal) from refusal

    async def json(self) -> Any:
        try:
            return await super().json()
        except (ValueError, RecursionError) as error:
            raise _Unreadable(Refusal(400, "bad_body", "The body is not JSON in UTF-8.")) from error


class _Unreadable(HTTPException):
    """FastAPI lets HTTPExceptions alone in reading a body, and makes others its own."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.problem.status, refusal.problem.message)
        self.refusal = refusal


def _answer(error: BaseException) -> Response:
    problem = problem_of(error)
    return JSONResponse({"error": problem.to_dict()}, problem.status, problem.headers)
