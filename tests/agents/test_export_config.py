"""Parity row C06: what an agent was made with, as JSON values, and another agent made of it."""

from __future__ import annotations

import enum
import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from agentscope_async import (
    AgentBase,
    ConfigError,
    DialogAgent,
    DictDialogAgent,
    EchoModel,
    FallbackModel,
    FunctionModel,
    LocalModel,
    ModelRegistry,
    OllamaChatWrapper,
    OpenAIChatWrapper,
    PostAPIChatWrapper,
    Runtime,
    ScriptedModel,
    TextToImageAgent,
    UserAgent,
)
from agentscope_async.models.config import find_model, setting_of

KEY = "a-key-that-no-settings-may-hold"


class Painter(AgentBase):
    """An ordinary subclass: arguments of its own, all others passed on."""

    def __init__(self, name: str, colours: list[str], *, width: int = 3, brush: Any = None, **options: Any):
        super().__init__(name, **options)
        self.colours = colours
        self.width = width
        self.brush = brush


class Closed(AgentBase):
    """Passes nothing on: what AgentBase gets is its own affair."""

    def __init__(self, start: int = 0):
        super().__init__("counter", "You count.", "fake:echo", capacity=5)
        self.start = start


class OldStyle(AgentBase):
    """As subclasses of AgentScope v0.0.2's AgentBase look."""

    def __init__(self, name: str, sys_prompt: str, model_config_name: str, use_memory: bool = True):
        super().__init__(name, sys_prompt, model_config_name=model_config_name, use_memory=use_memory)


class Slotted(Painter):
    """A class of a class, with slots, and one more argument."""

    __slots__ = ("depth",)

    def __init__(self, name: str, depth: int, **options: Any):
        super().__init__(name, **options)
        self.depth = depth


class Streamer(AgentBase):
    """Has an argument with the name of a method, so it cannot keep it under that name."""

    def __init__(self, name: str, stream: bool = False):
        super().__init__(name)
        self._is_streaming = stream


class Keyed(AgentBase):
    """Keeps what it needs under another name."""

    def __init__(self, name: str, secret: str):
        super().__init__(name)
        self._hidden = secret


class Told(Keyed):
    """And says so."""

    def export_config(self) -> dict[str, Any]:
        return {"class": "Told", "name": self.name, "secret": self._hidden}


class Colour(str, enum.Enum):  # noqa: UP042  # str() of a member of this kind is not its value
    RED = "red"


class Verdict(BaseModel):
    is_good: bool


class MyModel(EchoModel):
    """A wrapper of the user's own, with an argument more and no type of its own."""

    def __init__(self, config_name: str | None = None, *, volume: int = 1, **options: Any):
        super().__init__(config_name, **options)
        self.volume = volume


def again(agent: Any) -> Any:
    """Make another agent of the settings, once these were JSON."""
    config = orjson.loads(orjson.dumps(agent.export_config()))
    assert config.pop("class") == type(agent).__name__
    return type(agent)(**config)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AgentBase("a"),
        lambda: AgentBase("a", "prompt", "fake:echo", use_memory=False, capacity=7, overflow="reject"),
        lambda: DialogAgent("d", "Be brief.", "fake:echo"),
        lambda: DialogAgent("d", None, EchoModel(delay_s=0.5)),
        lambda: DictDialogAgent("d", "JSON, please.", "fake:echo", max_retries=7, capacity=2),
        lambda: TextToImageAgent("t", "fake:echo", use_memory=False),
        lambda: UserAgent(require_url=True),
        lambda: Painter("p", ["red", "blue"], width=9, brush={"hair": [1, None, 2.5, True]}, capacity=2),
        lambda: Closed(3),
        lambda: OldStyle("o", "prompt", "fake:echo", use_memory=False),
        lambda: Slotted("s", 4, colours=[], sys_prompt="deep"),
        lambda: Streamer("s"),
        lambda: Told("t", "secret"),
    ],
)
def test_C06_an_agent_made_of_the_settings_has_the_same_settings(make):
    first = make()
    second = again(first)
    assert second.export_config() == first.export_config()
    assert type(second.model) is type(first.model)


@pytest.mark.parametrize("kind", [AgentBase, DialogAgent, DictDialogAgent])
def test_C06_settings_loaded_into_an_agent_are_its_own_afterwards(kind):
    config = kind("first", "prompt", EchoModel("e", delay_s=1), capacity=3).export_config()
    second = kind("second", model="fake:echo")
    second.load_from_config(orjson.loads(orjson.dumps(config)))
    assert second.export_config() == config


def test_C06_arguments_of_a_subclass_are_loaded_as_its_attributes():
    first, second = Painter("p", ["red"], width=5), Painter("q", [])
    second.load_from_config(first.export_config())
    assert (second.name, second.colours, second.width) == ("p", ["red"], 5)


def test_C06_settings_of_a_class_that_passes_nothing_on_are_its_own_arguments():
    assert Closed(4).export_config() == {"class": "Closed", "start": 4}


def test_C06_a_class_that_takes_its_model_under_the_old_name_says_it_under_that_name():
    config = OldStyle("o", "prompt", "fake:echo").export_config()
    assert config["model_config_name"] == "fake:echo"
    assert "model" not in config
    other = OldStyle("x", "", "fake:echo")
    other.load_from_config(config)
    assert other.export_config() == config


def test_C06_settings_follow_the_agent_not_its_constructor():
    painter = Painter("p", ["red"])
    painter.colours.append("blue")
    painter.name = "q"
    config = painter.export_config()
    assert (config["name"], config["colours"]) == ("q", ["red", "blue"])


def test_C06_changing_the_settings_does_not_change_the_agent():
    painter = Painter("p", ["red"])
    painter.export_config()["colours"].append("blue")
    assert painter.colours == ["red"]


def test_C06_tuples_become_lists_and_members_of_enums_their_values():
    painter = Painter("p", ("red", Colour.RED), brush={Colour.RED: (1,)})
    config = painter.export_config()
    assert (config["colours"], config["brush"]) == (["red", "red"], {"red": [1]})
    assert type(config["colours"][1]) is str


def test_C06_an_argument_that_is_not_kept_is_left_out_if_it_has_a_default():
    assert "stream" not in Streamer("s", stream=True).export_config()
    assert "prompt_type" not in DialogAgent("d", "x", "fake:echo").export_config()


def test_C06_an_argument_that_is_not_kept_and_needed_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"'secret'.*self\.secret, or write export_config\(\) in Keyed"):
        Keyed("k", "x").export_config()


def loop() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, {1, 2}, b"bytes", math.nan, -math.inf, 2**64, "\ud800", {"\ud800": 1}, loop(), print],
)
def test_C06_a_value_that_is_no_json_is_refused_by_the_name_of_its_argument(value):
    for wrong in (value, [value], {"deep": (value,)}):
        with pytest.raises(ConfigError, match="brush"):
            Painter("p", [], brush=wrong).export_config()


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_C06_every_json_value_goes_round(value):
    first = Painter("p", [], brush=value)
    second = again(first)
    assert second.brush == value
    assert second.export_config() == first.export_config()


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: DialogAgent("d", None, "fake:echo", output_type=Verdict), "output_type"),
        (lambda: DictDialogAgent("d", None, "fake:echo", parse_func=lambda response: response), "parse_func"),
        (lambda: UserAgent(source=iter_lines()), "source"),
    ],
)
def test_C06_functions_and_classes_are_refused_with_what_to_do(make, argument):
    with pytest.raises(ConfigError, match=rf"{argument}.*a subclass of it that sets {argument} itself"):
        make().export_config()


async def iter_lines():
    yield "line"


# -- loading --


@pytest.mark.parametrize(
    "config", [{"colour": "blue"}, {"width": 4, "colour": "blue"}, {"width": 4, "capacity": 0}]
)
def test_C06_loading_what_does_not_fit_a_subclass_changes_nothing(config):
    painter = Painter("p", ["red"])
    before = painter.export_config()
    with pytest.raises(ConfigError):
        painter.load_from_config(config)
    assert painter.export_config() == before


def test_C06_loading_an_argument_that_is_not_kept_under_its_name_is_refused():
    with pytest.raises(ConfigError, match=r"self\.secret, or write load_from_config\(\) in Keyed"):
        Keyed("k", "x").load_from_config({"name": "l", "secret": "y"})


def test_C06_a_setter_that_refuses_leaves_everything_as_it_was():
    class Strict(AgentBase):
        def __init__(self, name: str, first: int = 0, second: int = 0):
            super().__init__(name)
            self.first = first
            self.second = second

        @property
        def second(self) -> int:
            return self._second

        @second.setter
        def second(self, value: int) -> None:
            if value < 0:
                raise ValueError("negative")
            self._second = value

    strict = Strict("s")
    with pytest.raises(ValueError, match="negative"):
        strict.load_from_config({"name": "t", "first": 1, "second": -1})
    assert (strict.name, strict.first, strict.second) == ("s", 0, 0)


# -- models --


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_C06_a_model_of_the_runtime_is_told_by_its_name():
    runtime = Runtime(model_configs=[{"config_name": "mine", "model_type": "fake_echo"}])
    registered = find_model("mine", runtime)
    assert setting_of(registered, runtime) == "mine"
    assert setting_of(registered) == {"model_type": "fake_echo", "config_name": "mine"}


async def test_C06_an_agent_says_the_name_of_its_model_also_after_its_runtime_was_left():
    async with Runtime(model_configs={"config_name": "mine", "model_type": "fake_echo"}):
        agent = DialogAgent("d", None, "mine")
        assert agent.export_config()["model"] == "mine"
    assert agent.export_config()["model"] == "mine"


def test_C06_a_model_that_only_shares_a_name_with_a_configuration_is_told_as_itself():
    runtime = Runtime(model_configs={"config_name": "mine", "model_type": "fake_echo"})
    find_model("mine", runtime)
    assert setting_of(EchoModel("mine", delay_s=2), runtime) == {
        "model_type": "fake_echo",
        "config_name": "mine",
        "delay_s": 2,
    }


def test_C06_a_provider_string_is_told_as_that_string(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("openai:gpt-4o-mini", "ollama:llama3", "fake:echo"):
        assert DialogAgent("d", None, name).export_config()["model"] == name


def test_C06_a_provider_string_with_another_address_is_told_with_that_address():
    model = ModelRegistry().load("openai:tiny", base_url="http://127.0.0.1:1/v1")
    assert setting_of(model)["base_url"] == "http://127.0.0.1:1/v1"
    assert setting_of(find_model(setting_of(model))) == setting_of(model)


@pytest.mark.parametrize(
    "model",
    [
        EchoModel(delay_s=0.25, generate_args={"seed": 1}),
        ScriptedModel(["one", {"two": 2}], "scripted", loop=True),
        MyModel(volume=11, delay_s=1),
        OllamaChatWrapper(
            "o", "llama3", {"num_ctx": 10}, host="http://127.0.0.1:1", client_args={"timeout": 3}
        ),
        OpenAIChatWrapper(
            "v",
            "tiny",
            base_url="http://127.0.0.1:1/v1",
            client_args={"max_retries": 0},
            generate_args={"seed": 2},
        ),
        OpenAIChatWrapper(model_name="tiny", base_url="http://127.0.0.1:1/v1"),
        PostAPIChatWrapper("p", "http://127.0.0.1:1/chat", max_length=9, json_args={"a": [1]}, timeout=None),
        FallbackModel(["fake:echo", ScriptedModel(["x"]), OllamaChatWrapper("o", "llama3")], "both"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_C06_a_model_given_as_an_object_is_told_as_its_configuration(model):
    config = orjson.loads(orjson.dumps(DialogAgent("d", None, model).export_config()["model"]))
    other = DialogAgent("d", None, config).model
    assert type(other) is type(model)
    assert setting_of(other) == config
    assert other.model_name == model.model_name


async def test_C06_a_scripted_model_made_again_answers_from_the_beginning():
    first = DialogAgent("d", None, ScriptedModel(["one", "two"]))
    assert (await first("hi")).text == "one"
    assert (await again(first)("hi")).text == "one"


def test_C06_a_key_of_the_environment_is_left_there(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    agent = DialogAgent("d", None, OpenAIChatWrapper("o", "gpt-4o-mini"))
    assert KEY not in str(agent.export_config())
    assert again(agent).model.own_headers() == agent.model.own_headers()


@pytest.mark.parametrize(
    "make",
    [
        lambda: OpenAIChatWrapper("o", "m", KEY),
        lambda: OpenAIChatWrapper("o", "m", client_args={"api_key": KEY}),
        lambda: OpenAIChatWrapper("o", "m", base_url=f"http://user:{KEY}@127.0.0.1:1/v1"),
        lambda: OllamaChatWrapper("o", "m", client_args={"default_headers": {"X-Gate-Key": KEY}}),
        lambda: PostAPIChatWrapper("o", "http://127.0.0.1:1/", {"Authorization": f"Bearer {KEY}"}),
    ],
)
def test_C06_settings_never_hold_a_key(make):
    with pytest.raises(ConfigError, match=r"key or a password.*config_name.*environment") as caught:
        DialogAgent("d", None, make()).export_config()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FunctionModel(lambda messages: "hi"),
        lambda: ScriptedModel([ValueError("x")]),
        lambda: ScriptedModel(iter(["x"])),
        lambda: FallbackModel(["fake:echo", FunctionModel(str)]),
        lambda: FallbackModel(["fake:echo"], fallback_on=lambda error: True),
        lambda: OllamaChatWrapper("o", "m", budget=1.0),
        lambda: OllamaChatWrapper("o", "m", client_args={"transport": object()}),
    ],
)
def test_C06_a_model_that_cannot_be_told_is_refused(make):
    with pytest.raises(ConfigError):
        DialogAgent("d", None, make()).export_config()


def test_C06_a_function_as_a_model_is_refused_with_what_to_do():
    with pytest.raises(
        ConfigError, match=r"function= of this FunctionModel.*__init__ of an agent class of your own"
    ):
        DialogAgent("d", None, FunctionModel(str)).export_config()


@pytest.mark.parametrize(
    "config", [{}, {"model_type": 3}, {"model_type": "none such"}, {"model_type": "fake_echo", "volume": 3}]
)
def test_C06_a_configuration_that_is_none_of_a_model_is_refused(config):
    with pytest.raises(ConfigError):
        DialogAgent("d", None, config)


def test_C06_a_local_model_is_told_by_its_name():
    assert setting_of(find_model("local:smollm2")) == "local:smollm2"
    assert setting_of(LocalModel(model_name="smollm2", ctx=512))["ctx"] == 512


def test_C06_agents_hold_nothing_for_their_settings():
    agent = Painter("p", ["red"], width=2)
    assert sorted(vars(agent)) == ["brush", "colours", "width"]
