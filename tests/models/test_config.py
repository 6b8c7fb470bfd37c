"""Configurations of models, by name, by type and as ``"provider:model"``: which wrapper is made of them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from agentscope_async import (
    AgentScopeWarning,
    ConfigError,
    ConnectionFailed,
    DialogAgent,
    EchoModel,
    MessageError,
    ModelError,
    Msg,
    Runtime,
    init,
)
from agentscope_async._settings import parameters
from agentscope_async.models import (
    DashScopeChatWrapper,
    FallbackModel,
    GeminiChatWrapper,
    ModelRegistry,
    ModelResponse,
    ModelWrapperBase,
    OllamaChatWrapper,
    OpenAIChatWrapper,
    ScriptedModel,
)
from agentscope_async.models._catalog import ALIASES, KEYS, TYPES
from agentscope_async.prompt import PromptEngine, PromptType

HELLO = [{"role": "user", "content": "Hello!"}]
CHATS = {
    "dashscope": DashScopeChatWrapper,
    "gemini": GeminiChatWrapper,
    "ollama": OllamaChatWrapper,
    "openai": OpenAIChatWrapper,
}
VARIABLES = [
    "OPENAI_API_KEY", "OPENAI_BASE_URL", "DASHSCOPE_API_KEY", "DASHSCOPE_HTTP_BASE_URL",
    "GOOGLE_API_KEY", "GEMINI_API_KEY", "OLLAMA_HOST", "OLLAMA_API_KEY",
]  # fmt: skip
NEEDED = {
    "fake_function": {"function": lambda messages: "hi"},
    "fake_scripted": {"answers": ["hi"]},
    "fallback": {"models": ["fake:echo"]},
    "post_api": {"api_url": "http://127.0.0.1:9"},
    "post_api_chat": {"api_url": "http://127.0.0.1:9"},
    "post_api_dall_e": {"api_url": "http://127.0.0.1:9"},
}
"""What some types cannot be made without."""


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def registered() -> Iterator[None]:
    """Types that a test registers are forgotten after it."""
    before = dict(ModelWrapperBase._types)
    yield
    ModelWrapperBase._types.clear()
    ModelWrapperBase._types.update(before)


def load_one(config: dict[str, Any]) -> ModelWrapperBase:
    return loaded(config).load(config["config_name"])


def loaded(*configs: dict[str, Any]) -> ModelRegistry:
    registry = ModelRegistry()
    registry.read(list(configs))
    return registry


def made(model_type: str, **more: Any) -> ModelWrapperBase:
    return loaded({"config_name": "talk", "model_type": model_type, **more}).load("talk")


def hosted(provider: str, **more: Any) -> dict[str, Any]:
    """Return a configuration of a chat model somewhere else."""
    config = {"config_name": "talk", "model_type": f"{provider}_chat", "model_name": "m", "api_key": "k"}
    return config | {"base_url": "http://127.0.0.1:9"} | more


# -- by config_name --


def test_e01_an_unknown_name_is_a_value_error_that_says_the_nearest():
    registry = loaded({"config_name": "gpt-4", "model_type": "openai_chat"})
    with pytest.raises(ValueError, match=r"named 'gtp-4'; did you mean 'gpt-4'\?"):
        registry.load("gtp-4")


def test_e01_a_cleared_registry_knows_nothing():
    registry = loaded({"config_name": "talk", "model_type": "fake_echo"})
    registry.load("talk")
    registry.clear()
    with pytest.raises(ValueError, match="named 'talk'"):
        registry.load("talk")


def test_e01_of_two_with_one_name_the_first_stays_with_a_warning():
    registry = loaded({"config_name": "talk", "model_type": "fake_echo", "model_name": "first"})
    with pytest.warns(AgentScopeWarning, match="'talk' is known already; the first one stays"):
        registry.read({"config_name": "talk", "model_type": "fake_echo", "model_name": "second"})
    assert registry.load("talk").model_name == "first"


async def test_e01_an_agent_finds_its_model_by_name_in_its_runtime(tmp_path):
    config = {"config_name": "talk", "model_type": "fake_echo"}
    async with Runtime(model_configs=config, save_dir=tmp_path):
        reply = await DialogAgent("Ann", "", model_config_name="talk")(Msg("Al", "hi", "user"))
        with pytest.raises(ValueError, match="named 'walk'"):
            DialogAgent("Ann", "", model_config_name="walk")
    assert reply.text == "Al: hi"


# -- by type, class and old name --


@pytest.mark.parametrize("model_type", sorted(set(TYPES) - {"local"}))
def test_e02_the_type_and_the_name_of_the_class_mean_the_same(model_type):
    args = NEEDED.get(model_type, {})
    if model_type.startswith(("openai", "dashscope", "gemini", "ollama")):
        args = {"model_name": "m", "api_key": "k"}
    _, name = TYPES[model_type]
    by_type, by_class = made(model_type, **args), made(name, **args)
    assert type(by_type) is type(by_class)
    assert (type(by_type).__name__, by_type.model_type) == (name, model_type)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("openai", "OpenAIChatWrapper"),
        ("post_api_dalle", "PostAPIDALLEWrapper"),
        ("tongyi_chat", "DashScopeChatWrapper"),
    ],
)
def test_e02_an_old_name_is_taken_with_a_warning(alias, name):
    args = {"api_url": "http://127.0.0.1:9"} if alias == "post_api_dalle" else {"api_key": "k"}
    with pytest.warns(AgentScopeWarning, match=f"{alias!r} is an old name of {ALIASES[alias]!r}"):
        model = made(alias, model_name="m", **args)
    assert type(model).__name__ == name


@pytest.mark.parametrize(
    ("model_type", "nearest"),
    [("openai_chatt", "openai_chat"), ("OpenAI_chat", "openai_chat"), ("post_apis", "post_api")],
)
def test_e02_an_unknown_type_is_an_error_that_says_the_nearest(model_type, nearest):
    with pytest.raises(ConfigError, match=rf"{model_type!r} in 'talk'; did you mean {nearest!r}\?"):
        made(model_type)


def test_e02_a_type_like_no_other_is_an_error_that_says_all():
    with pytest.raises(ConfigError, match=r"known: .*dashscope_chat.*gemini_chat.*ollama_chat.*openai_chat"):
        made("zzz", api_url="http://127.0.0.1:9")


@pytest.mark.parametrize("provider", CHATS)
@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("generate_arg", "generate_args"), ("modelname", "model_name"), ("apikey", "api_key")],
)
def test_e02_an_unknown_key_is_an_error_that_says_the_nearest(provider, wrong, nearest):
    with pytest.raises(ConfigError, match=rf"takes no {wrong!r}; did you mean {nearest!r}\?"):
        loaded(hosted(provider, **{wrong: "x"})).load("talk")


@pytest.mark.parametrize("provider", CHATS)
def test_e02_an_unknown_option_of_the_client_is_an_error_that_says_the_nearest(provider):
    with pytest.raises(ConfigError, match=r"client_args has no 'time_out'; did you mean 'timeout'\?"):
        loaded(hosted(provider, client_args={"time_out": 3})).load("talk")


@pytest.mark.parametrize("model_type", TYPES)
def test_e02_the_catalog_knows_what_each_configuration_may_hold(model_type):
    module, name = TYPES[model_type]
    kind = getattr(importlib.import_module(f"agentscope_async.models.{module}"), name)
    assert set(KEYS[model_type]) == set(parameters(kind))


@pytest.mark.parametrize("read", [lambda config: ModelRegistry().read(config), lambda config: init(config)])
@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "openai_chat", "modelname": "m"}, r"OpenAIChatWrapper takes no 'modelname'; did you"),
        ({"model_type": "OpenAIChatWrapper", "apikey": "k"}, r"OpenAIChatWrapper takes no 'apikey'; did you"),
        ({"model_type": "openai", "temperature": 0}, r"takes no 'temperature'; .* belong in generate_args"),
        ({"model_type": "Shout", "marc": "?"}, r"Shout takes no 'marc'; did you mean 'mark'\?"),
        ({"model_type": "openai-chat"}, r"Unknown model_type 'openai-chat' in 'talk'; did you mean 'openai_"),
        ({"model_type": "ollama"}, r"Unknown model_type 'ollama' in 'talk'; .*ollama_chat"),
    ],
)
def test_e02_a_wrong_configuration_is_refused_when_it_is_read(read, config, match):
    with pytest.raises(ConfigError, match=match):
        read({"config_name": "talk", **config})


def test_e02_of_configurations_with_a_wrong_one_none_is_added():
    registry = loaded({"config_name": "talk", "model_type": "fake_echo"})
    with pytest.raises(ConfigError, match="takes no 'delay'"):
        registry.read(
            [
                {"config_name": "talk", "model_type": "fake_echo", "delay_s": 1},
                {"config_name": "other", "model_type": "fake_echo", "delay": 1},
            ],
            replace=True,
        )
    assert registry.configs() == [{"config_name": "talk", "model_type": "fake_echo"}]


def test_e02_reading_configurations_needs_no_key_and_loads_no_wrapper():
    script = """
import sys
from agentscope_async import ModelRegistry
from agentscope_async.models._catalog import TYPES
before = set(sys.modules)
ModelRegistry().read([{"config_name": name, "model_type": name} for name in TYPES])
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("kind", "args", "match"),
    [
        (
            OpenAIChatWrapper,
            {"modelname": "m"},
            "OpenAIChatWrapper takes no 'modelname'; did you mean 'model_name'",
        ),
        (ScriptedModel, {"anwers": []}, "ScriptedModel takes no 'anwers'; did you mean 'answers'"),
        (EchoModel, {"temperature": 0}, "EchoModel takes no 'temperature'; arguments of calls belong in gen"),
    ],
)
def test_e02_an_unknown_argument_of_a_wrapper_is_an_error_that_says_the_nearest(kind, args, match):
    with pytest.raises(ConfigError, match=match):
        kind("talk", **args)


def test_e03_a_wrapper_of_ones_own_may_take_any_argument():
    class Roomy(Shout):
        def __init__(self, config_name: str, **options: Any) -> None:
            super().__init__(config_name)

    assert Roomy("talk", colour="blue").mark == "!"


# -- a user's own --


class Shout(ModelWrapperBase):
    """A wrapper of a user's that names no type."""

    def __init__(self, config_name: str, mark: str = "!", **options: Any) -> None:
        super().__init__(config_name, **options)
        self.mark = mark

    async def _call(self, messages: Any, args: dict[str, Any]) -> ModelResponse:
        return ModelResponse(messages[-1]["content"].upper() + self.mark)


async def test_e03_a_wrapper_of_ones_own_is_known_by_its_type(registered, tmp_path):
    class Loud(Shout):
        model_type = "my_loud"

    config = {"config_name": "loud", "model_type": "my_loud", "mark": "?"}
    async with Runtime(model_configs=config, save_dir=tmp_path):
        reply = await DialogAgent("Ann", "", model_config_name="loud")(Msg("Al", "hi", "user"))
    assert reply.text == "AL: HI?"


async def test_e03_a_wrapper_of_ones_own_may_be_written_after_its_configuration_is_read(registered):
    registry = loaded({"config_name": "loud", "model_type": "my_openai_chat"})
    with pytest.raises(ConfigError, match="Unknown model_type 'my_openai_chat' in 'loud'"):
        registry.load("loud")
    type("Loud", (Shout,), {"model_type": "my_openai_chat"})
    assert (await registry.load("loud")(HELLO)).text == "HELLO!!"


async def test_e03_a_wrapper_without_a_type_is_known_by_its_class():
    model = made("Shout", mark="?")
    assert (await model(HELLO)).text == "HELLO!?"


def test_e03_a_wrapper_of_ones_own_takes_what_its_classes_above_take():
    assert made("Shout", generate_args={"seed": 1}).generate_args == {"seed": 1}
    with pytest.raises(ConfigError, match=r"Shout takes no 'marc'; did you mean 'mark'\?"):
        made("Shout", marc="?")


def test_e03_a_class_that_inherits_a_type_leaves_its_parents_alone(registered):
    class Mine(OpenAIChatWrapper):
        pass

    assert Mine.model_type == "openai_chat"
    assert type(loaded(hosted("openai")).load("talk")) is OpenAIChatWrapper
    assert type(made("OpenAIChatWrapper", model_name="m", api_key="k")) is OpenAIChatWrapper
    assert type(made("Mine", model_name="m", api_key="k")) is Mine


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_e03_a_type_of_this_package_cannot_be_taken(registered, model_type):
    with pytest.raises(ConfigError, match=f"{model_type!r} of Usurper is taken by {TYPES[model_type][1]}"):
        type("Usurper", (Shout,), {"model_type": model_type})


def test_e03_a_class_named_like_one_of_this_package_does_not_stand_for_it(registered):
    namesake = type("OpenAIChatWrapper", (Shout,), {"model_type": "my_namesake"})
    assert type(made("OpenAIChatWrapper", model_name="m", api_key="k")) is OpenAIChatWrapper
    assert type(made("my_namesake")) is namesake


def test_e03_the_same_class_may_be_written_again_and_another_may_not_take_its_type(registered):
    def write() -> type[ModelWrapperBase]:
        class Again(Shout):
            model_type = "my_again"

        return Again

    write()
    second = write()
    assert type(made("my_again")) is second
    with pytest.raises(ConfigError, match="'my_again' of Other is taken by Again"):
        type("Other", (Shout,), {"model_type": "my_again"})


# -- responses --


def test_e04_a_response_has_the_four_fields_and_is_readable():
    response = ModelResponse("hi", embedding=[[0.5]], image_urls=["http://a/b.png"], raw={"id": 1})
    assert (response.text, response.embedding) == ("hi", [[0.5]])
    assert (response.image_urls, response.raw) == (["http://a/b.png"], {"id": 1})
    assert orjson.loads(str(response)) == {
        "text": "hi",
        "embedding": [[0.5]],
        "image_urls": ["http://a/b.png"],
        "raw": {"id": 1},
    }
    assert ModelResponse().text is ModelResponse().embedding is ModelResponse().raw is None


# -- arguments --


async def sent_by(provider: str, call: dict[str, Any], **config: Any) -> dict[str, Any]:
    """Return the body of the request that a configured wrapper makes for a call with these arguments."""
    bodies: list[dict[str, Any]] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        bodies.append(orjson.loads(request.content))
        return httpx.Response(400, json={"error": {"message": "no"}})

    client = {"transport": httpx.MockTransport(refuse)}
    model = loaded(hosted(provider, client_args=client, **config)).load("talk")
    with pytest.raises(ModelError):
        await model(HELLO, **call)
    (body,) = bodies
    return body


PLACES = {
    "dashscope": lambda body: body["parameters"],
    "gemini": lambda body: body["generationConfig"],
    "ollama": lambda body: body["options"],
    "openai": lambda body: body,
}
"""Where each provider has its generation arguments."""


@pytest.mark.parametrize("provider", CHATS)
async def test_e06_generate_args_are_sent_and_those_of_the_call_win(provider):
    given = {"temperature": 0.25, "seed": 1}
    body = await sent_by(provider, {"seed": 2}, generate_args=given)
    assert PLACES[provider](body).items() >= {"temperature": 0.25, "seed": 2}.items()
    assert given == {"temperature": 0.25, "seed": 1}


@pytest.mark.parametrize("provider", CHATS)
def test_e06_a_missing_model_name_is_the_config_name_with_a_warning(provider):
    config = hosted(provider)
    del config["model_name"]
    with pytest.warns(AgentScopeWarning, match="config_name 'talk' is used"):
        assert loaded(config).load("talk").model_name == "talk"


# -- what every call leaves behind --

ANSWERS = {
    "dashscope": {"request_id": "r", "output": {"text": "hi", "finish_reason": "stop"}},
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}]
    },
    "ollama": {"message": {"role": "assistant", "content": "hi"}, "done": True, "done_reason": "stop"},
    "openai": {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]},
}
USAGES = {
    "dashscope": {"usage": {"input_tokens": 9, "output_tokens": 4}},
    "gemini": {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13}},
    "ollama": {"prompt_eval_count": 9, "eval_count": 4},
    "openai": {
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 0},
        }
    },
}
"""As the providers send them today: OpenAI's with objects in it."""


def answering(provider: str) -> httpx.MockTransport:
    answer = ANSWERS[provider] | USAGES[provider]
    return httpx.MockTransport(lambda request: httpx.Response(200, json=answer))


@pytest.mark.parametrize("provider", CHATS)
async def test_a06_e07_each_call_is_a_file_without_the_key(provider, tmp_path):
    config = hosted(provider, api_key="a-T0p5ecret-key", client_args={"transport": answering(provider)})
    async with Runtime(model_configs=config, save_dir=tmp_path, save_api_invoke=True) as runtime:
        model = runtime.models.load("talk")
        assert [(await model(HELLO)).text for _ in range(3)] == ["hi"] * 3
    paths = list((runtime.run.path / "invoke").iterdir())
    assert len(paths) == 3
    record = orjson.loads(paths[0].read_bytes())
    assert set(record) == {"model_class", "timestamp", "arguments", "response"}
    assert record["model_class"] == CHATS[provider].__name__
    assert "Hello!" in str(record["arguments"])
    assert "hi" in str(record["response"])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"T0p5ecret" in path.read_bytes()]


@pytest.mark.parametrize("provider", CHATS)
async def test_e08_f01_f06_f11_f14_each_call_is_counted(provider):
    config = hosted(provider, client_args={"transport": answering(provider)})
    async with Runtime(model_configs=config) as runtime:
        for calls in (1, 2):
            await runtime.models.load("talk")(HELLO)
            names = ("call_counter", "prompt_tokens", "completion_tokens", "total_tokens")
            counted = [await runtime.monitor.get_value(f"m.{name}") for name in names]
            assert counted == [calls, 9 * calls, 4 * calls, 13 * calls]


# -- how messages are formatted --

MESSAGES = [Msg("Ann", "hi", "user"), Msg("Bob", "ho", "assistant")]
FORMATTING = sorted(
    name
    for name in TYPES
    if name.endswith("_chat") or name in ("ollama_generate", "fake_echo", "fallback", "post_api_chat")
)


def formatter(model_type: str) -> ModelWrapperBase:
    args = NEEDED.get(model_type, {"model_name": "m", "api_key": "k"})
    return made(model_type, **({} if model_type.startswith("fake") else args))


@pytest.mark.parametrize("model_type", FORMATTING)
@pytest.mark.parametrize("wrong", ["hi", {"name": "Ann", "content": "hi", "role": "user"}, 3])
def test_e09_format_takes_nothing_but_messages(model_type, wrong):
    model = formatter(model_type)
    model.format(MESSAGES[0], MESSAGES)
    for given in ([wrong], [MESSAGES[0], [wrong]]):
        with pytest.raises(TypeError):
            model.format(*given)


@pytest.mark.parametrize("model_type", FORMATTING)
def test_h03_the_kind_of_prompt_is_that_of_the_model(model_type):
    with pytest.warns(AgentScopeWarning, match=r"model\.format"):
        engine = PromptEngine(formatter(model_type))
    is_generation = model_type == "ollama_generate"
    assert engine.prompt_type is (PromptType.STRING if is_generation else PromptType.LIST)


# -- several in one --


def failing(name: str) -> dict[str, Any]:
    down = httpx.MockTransport(lambda request: httpx.Response(500, json={"error": {"message": "down"}}))
    client = {"transport": down, "max_retries": 0}
    return hosted("openai", config_name=name, client_args=client)


async def test_a_fallback_names_its_models_and_asks_the_next_when_one_fails():
    registry = loaded(
        {"config_name": "both", "model_type": "fallback", "models": ["first", "second"]},
        failing("first"),
        {"config_name": "second", "model_type": "fake_scripted", "answers": ["I am here."]},
    )
    assert (await registry.load("both")(HELLO)).text == "I am here."
    assert registry.load("both").models == [registry.load("first"), registry.load("second")]


async def test_a_fallback_takes_provider_and_model_too():
    registry = loaded(
        {"config_name": "both", "model_type": "fallback", "models": ["first", "fake:echo"]}, failing("first")
    )
    agent = DialogAgent("Ann", "", registry.load("both"))
    assert (await agent(Msg("Al", "hi", "user"))).text == "Al: hi"


@pytest.mark.parametrize(
    ("models", "problem"), [(["nobody"], "named 'nobody'"), ([], "at least one"), ("fake:echo", "a list")]
)
def test_a_fallback_without_models_or_with_unknown_ones_is_refused(models, problem):
    with pytest.raises(ConfigError, match=problem):
        made("fallback", models=models)


# -- provider:model --


@pytest.mark.parametrize("provider", CHATS)
def test_provider_and_model_are_enough_with_an_address(provider):
    with warnings.catch_warnings(action="error"):
        model = ModelRegistry().load(
            f"{provider}:some/model:7b", base_url="http://127.0.0.1:9/api/v1/", api_key="k"
        )
    assert type(model) is CHATS[provider]
    assert (model.model_name, model.base_url) == ("some/model:7b", "http://127.0.0.1:9/api/v1")
    assert model.config_name == f"{provider}:some/model:7b"


@pytest.mark.parametrize(
    ("provider", "key"),
    [("dashscope", "DASHSCOPE_API_KEY"), ("gemini", "GOOGLE_API_KEY"), ("openai", "OPENAI_API_KEY")],
)
def test_provider_and_model_take_the_key_of_the_environment_and_name_it_when_missing(
    provider, key, monkeypatch
):
    with pytest.raises(ConfigError, match=key):
        ModelRegistry().load(f"{provider}:m")
    monkeypatch.setenv(key, "k")
    assert type(ModelRegistry().load(f"{provider}:m")) is CHATS[provider]


def test_a_server_of_ones_own_needs_no_key():
    assert ModelRegistry().load("openai:m", base_url="http://127.0.0.1:9/v1").model_name == "m"
    assert ModelRegistry().load("ollama:m").model_name == "m"


@pytest.mark.parametrize("model", ["fake:echo", "local:smollm2"])
def test_a_model_in_this_process_has_no_address(model):
    with pytest.raises(ConfigError, match="takes no base_url"):
        ModelRegistry().load(model, base_url="http://127.0.0.1:9")


def test_an_address_does_not_go_with_a_configuration():
    with pytest.raises(ConfigError, match=r"base_url goes with 'provider:model' strings; 'talk' is"):
        loaded(hosted("openai")).load("talk", base_url="http://127.0.0.1:9")


def test_an_agent_takes_provider_and_model():
    assert isinstance(DialogAgent("Ann", "", "fake:echo").model, EchoModel)
    with pytest.raises(ConfigError, match="named 'opneai:m'"):
        DialogAgent("Ann", "", "opneai:m")


async def test_a_fallback_made_in_a_runtime_finds_its_models_there():
    configs = [
        {"config_name": "bad", "model_type": "openai_chat", "model_name": "m", "api_key": "sk-1234567890",
         "base_url": "http://127.0.0.1:9/v1", "client_args": {"max_retries": 0}},
        {"config_name": "good", "model_type": "fake_echo"},
    ]  # fmt: skip
    async with Runtime(model_configs=configs):
        model = FallbackModel(["bad", "good"])
        assert (await model(model.format(Msg("user", "hi", "user")))).text == "hi"
        assert "bad" in repr(model)
        both = FallbackModel(["bad", "bad"])
        with pytest.raises(ConnectionFailed) as caught:
            await both(both.format(Msg("user", "hi", "user")))
    assert caught.value.__notes__[0].startswith("asked before: ConnectionFailed")


def test_an_argument_of_calls_is_sent_to_generate_args():
    with pytest.raises(ConfigError, match="arguments of calls belong in generate_args"):
        load_one({"config_name": "a", "model_type": "openai_chat", "model_name": "m", "top_k": 1})
    with pytest.raises(ConfigError, match=r"'a'.*generate_args must be an object"):
        load_one({"config_name": "a", "model_type": "fake_echo", "generate_args": "hot"})


def test_base_url_is_known_to_client_args():
    with pytest.raises(ConfigError, match="did you mean 'base_url'"):
        load_one({"config_name": "a", "model_type": "openai_chat", "model_name": "m", "api_key": "k" * 9,
              "client_args": {"base_ulr": "http://h/v1"}})  # fmt: skip


async def test_a_msg_is_not_mistaken_for_a_message_of_the_provider():
    model = OpenAIChatWrapper("m", "m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(MessageError, match=r"model\.format"):
        await model([Msg("user", "hi", "user")])
