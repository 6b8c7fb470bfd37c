"""A fresh agent for each request, whatever was exposed."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from copy import copy
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from .._made import Made
from .._settings import parameters
from .._tasks import finish
from ..agents import DialogAgent, ReActAgent
from ..agents.base import AgentBase
from ..errors import ConfigError
from ..message import Msg, Usage
from ..models.base import ModelWrapperBase
from ..pipelines.batch import DebateSpec
from ..pipelines.classes import PipelineBase
from ..pipelines.debate import debate
from .problems import Refusal

if TYPE_CHECKING:
    from ..message import Speech
    from ..models.base import Messages, ModelResponse

__all__ = ["Offer", "Tally", "Team", "members", "own_model", "takes_tools", "tell"]


class Offer:
    """What is exposed under one name."""

    def __init__(self, name: str, target: Any) -> None:
        """Expose ``target``; see ``openai_api`` for what it can be.

        Raises:
            ConfigError: it is none of these, or cannot be made anew for each request.
        """
        self.name = name
        self._make = self._maker(target)
        self._made = Made()

    async def fresh(self) -> Any:
        """Return an agent for one request.

        Raises:
            ConfigError: the factory gave something else, or the same as for another request.
        """
        agent = await self._as_agent(await finish(self._make()))
        parts = {id(part): part for part in (agent, *members(agent))}  # once, also who sits in a team twice
        if not all(self._made.is_new(part) for part in parts.values()):
            raise ConfigError(
                f"The factory of {self.name!r} gave the same agent for two requests, which would mix up what "
                f"their clients said; each needs one of its own."
            )
        return agent

    def _maker(self, target: Any) -> Callable[[], Any]:
        if isinstance(target, AgentBase):
            _twin(target)  # what cannot be copied is told now, not to a client
            return lambda: _remembering_twin(target)
        if isinstance(target, DebateSpec):
            _check_factories(self.name, target)
            return lambda: DebateTeam(self.name, target)
        if inspect.iscoroutinefunction(target) and not _takes(target):
            return lambda: Team(self.name, target)
        if not callable(target) or isinstance(target, PipelineBase) or _is_agent(target):
            raise ConfigError(
                f"{self.name!r} is to be a factory that makes a new {type(target).__name__} for each "
                f"request: lambda: ..."
            )
        return _without_arguments(self.name, target)

    async def _as_agent(self, made: Any) -> Any:
        if isinstance(made, DebateSpec):
            _check_factories(self.name, made)
            made = DebateTeam(self.name, made)
        elif not _is_agent(made):
            if not callable(made):
                raise ConfigError(
                    f"The factory of {self.name!r} is to return an agent, a pipeline or a DebateSpec, not a "
                    f"{type(made).__name__}."
                )
            made = Team(self.name, made)
        if isinstance(made, DebateTeam):
            await made.assemble()
        return made


def _is_agent(value: Any) -> bool:
    return not inspect.isclass(value) and hasattr(value, "stream") and hasattr(value, "observe")


def _without_arguments(name: str, factory: Callable[..., Any]) -> Callable[[], Any]:
    """Return the factory as one without arguments; one that takes a key gets a new one each time."""
    if _takes(factory):
        return factory
    if _takes(factory, "key"):
        return lambda: factory(token_hex(16))
    raise ConfigError(f"The factory of {name!r} is called without arguments, or with a key: lambda: ...")


def _takes(function: Callable[..., Any], *args: Any) -> bool:
    """Whether it can be called so."""
    try:
        inspect.signature(function).bind(*args)
    except TypeError:
        return False
    except ValueError:  # of some that are written in C nobody knows
        return not args
    return True


def _check_factories(name: str, spec: DebateSpec) -> None:
    if any(isinstance(each, AgentBase) for each in (spec.pro, spec.con, spec.judge)):
        raise ConfigError(
            f"The debate {name!r} is held anew for each request, so its speakers are to be factories: "
            f"pro=lambda seed: DialogAgent(...)."
        )


def _twin(agent: AgentBase) -> AgentBase:
    """Return another agent of these settings, with the same model."""
    pattern = copy(agent)
    pattern.model = None  # goes over as it is, with its key
    try:
        settings = pattern.export_config()
        settings.pop("class")
        name = next(
            (each for each in parameters(type(agent)) if each in ("model", "model_config_name")), None
        )
        if name is not None and agent.model is not None:
            settings[name] = agent.model
        return type(agent)(**settings)
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"Each request needs a {type(agent).__name__} of its own, and {agent.name!r} cannot be copied: "
            f"{error} Or expose a factory: lambda: {type(agent).__name__}(...)."
        ) from error


async def _remembering_twin(agent: AgentBase) -> AgentBase:
    twin = _twin(agent)
    await twin.load_state(await agent.state())
    return twin


class Team(AgentBase):
    """Whatever can be awaited with a message, in the shape of an agent."""

    def __init__(self, name: str, operator: Any) -> None:
        super().__init__(name, use_memory=False)
        self.operator = operator

    @property
    def seated(self) -> list[AgentBase]:
        """The agents in it that are known."""
        return list(_agents_in(self.operator))

    async def observe(self, x: Any) -> None:
        """Let each agent in it remember this."""
        for each in self.seated:
            await each.observe(x)

    async def reply(self, x: Any = None) -> Any:
        """Pass ``x`` through."""
        return await self.operator(x)


def _agents_in(operator: Any) -> Iterator[AgentBase]:
    if isinstance(operator, AgentBase):
        yield operator
        return
    if isinstance(operator, PipelineBase):
        operator = operator.participants
    if isinstance(operator, Mapping):
        operator = operator.values()
    elif not isinstance(operator, (list, tuple)):
        return
    for each in operator:
        yield from _agents_in(each)


class DebateTeam(Team):
    """Holds a debate about what it is told; its reply is all the speeches."""

    def __init__(self, name: str, spec: DebateSpec) -> None:
        super().__init__(name, None)
        self._spec = spec
        self._seated: list[AgentBase] = []

    @property
    def seated(self) -> list[AgentBase]:
        """The speakers for and against, and the judge if there is one."""
        return self._seated

    async def assemble(self) -> None:
        """Have the speakers made."""
        spec = self._spec
        seed = spec.seed or 0
        makers = [each for each in (spec.pro, spec.con, spec.judge) if each is not None]
        self._seated = [await finish(make(seed)) for make in makers]
        if not all(isinstance(each, AgentBase) for each in self._seated):
            raise ConfigError(f"The speakers of the debate {self.name!r} are to be agents.")

    async def reply(self, x: Any = None) -> Msg:
        """Hold the debate."""
        topic = x.text if isinstance(x, Msg) else ""
        if not topic.strip():
            raise Refusal(400, "no_topic", "A debate needs a topic: the text of the last message.")
        pro, con, *judge = self._seated
        result = await debate(
            pro,
            con,
            *judge,
            topic=topic,
            rounds=self._spec.rounds,
            on_speech=_Announcer(self) if self.is_heard else None,
        )
        said = "\n\n".join(
            f"{msg.name}: {msg.text}" for msg in result.messages[1:]
        )  # the first is the host's
        return Msg(self.name, said, "assistant", usage=result.usage)


class _Announcer:
    """Passes speeches on as they are given, each behind its speaker's name."""

    def __init__(self, team: DebateTeam) -> None:
        self._team = team
        self._is_first = True
        self._is_within = False

    async def __call__(self, name: str, piece: Speech | Msg) -> None:
        if isinstance(piece, Msg):
            self._is_within = False
        elif piece.kind == "text":
            await self._team.speak(piece if self._is_within else self._opening(name, piece))

    def _opening(self, name: str, piece: Speech) -> Speech:
        from ..message import Speech

        gap = "" if self._is_first else "\n\n"
        self._is_first, self._is_within = False, True
        return Speech("text", f"{gap}{name}: {piece.text}")


def members(agent: Any) -> list[AgentBase]:
    """Return the agents of a team, or the one itself."""
    if isinstance(agent, Team):
        return agent.seated
    return list(_agents_in(agent))


def own_model(agent: Any) -> ModelWrapperBase | None:
    """Return the model that gives the answers of an agent; None for a team, which has several."""
    model = None if isinstance(agent, Team) else getattr(agent, "model", None)
    return model if isinstance(model, ModelWrapperBase) else None


def takes_tools(agent: Any) -> bool:
    """Whether a client's tools can be given to the agent's model, and its calls be the answer."""
    model = own_model(agent)
    if model is None or isinstance(agent, ReActAgent):
        return False
    return model.tool_calling == "native" and not (isinstance(agent, DialogAgent) and agent.output_type)


class Tally:
    """What the models of one turn took, and the last answer of them."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.last: ModelResponse | None = None

    def note(self, response: ModelResponse) -> ModelResponse:
        """Count an answer in."""
        self.last = response
        if response.usage is not None:
            self.usage = (self.usage or Usage()) + response.usage
        return response


def tell(agent: Any, args: dict[str, Any], tally: Tally) -> None:
    """Give ``args`` to each model of the agent or team, and count their calls."""
    for each in members(agent):
        if isinstance(each.model, ModelWrapperBase):
            each.model = Told(each.model, args, tally)


class Told(ModelWrapperBase):
    """A model that is told what a client asks for; what its agent asks for counts more."""

    def __init__(self, model: ModelWrapperBase, args: dict[str, Any], tally: Tally) -> None:
        super().__init__(model.config_name, model_name=model.model_name)
        self.tool_calling = model.tool_calling
        vars(self)["model_type"] = model.model_type  # the class has none, so as not to be registered
        self._model = model
        self._args = args
        self._tally = tally

    def format(self, *msgs: Any, me: str | None = None) -> Messages:
        """Let the model itself do this."""
        return self._model.format(*msgs, me=me)

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        return self._tally.note(await self._model(messages, **{**self._args, **args}))

    async def _stream(
        self, messages: Messages, args: dict[str, Any]
    ) -> AsyncGenerator[Speech | ModelResponse, None]:
        async with self._model.stream(messages, **{**self._args, **args}) as stream:
            async for delta in stream:
                yield delta
            yield self._tally.note(stream.response)
