"""What all model wrappers share: the registry, parsing, the form of messages, streams."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest

from agentscope_async import (
    AgentScopeWarning,
    BadResponse,
    ConfigError,
    EchoModel,
    ModelResponse,
    ModelWrapperBase,
    Msg,
    ScriptedModel,
    Speech,
    TextPart,
    Tht,
    Usage,
)
from agentscope_async.message import ImagePart, ToolCallPart
from agentscope_async.models import ModelRegistry, ModelStream

ECHO = {"config_name": "talk", "model_type": "fake_echo"}


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


@pytest.fixture
def registered():
    """Types that a test registers are forgotten after it."""
    before = dict(ModelWrapperBase._types)
    yield
    ModelWrapperBase._types.clear()
    ModelWrapperBase._types.update(before)


def loaded(configs, **options):
    registry = ModelRegistry()
    registry.read(configs, **options)
    return registry


class Plain(ModelWrapperBase):
    """Answers with the arguments it got; names no type."""

    async def _call(self, messages, args):
        return ModelResponse(json.dumps(args, sort_keys=True))


# -- the registry --


@pytest.mark.parametrize("form", ["object", "list", "tuple", "text path", "path", "path of one"])
def test_configurations_are_read_in_every_form(tmp_path, form):
    (tmp_path / "list.json").write_text(json.dumps([ECHO]))
    (tmp_path / "one.json").write_text(json.dumps(ECHO))
    given = {
        "object": ECHO,
        "list": [ECHO],
        "tuple": (ECHO,),
        "text path": str(tmp_path / "list.json"),
        "path": tmp_path / "list.json",
        "path of one": tmp_path / "one.json",
    }[form]
    registry = loaded(given)
    assert registry.names() == ["talk"]
    assert "talk" in registry
    model = registry.load("talk")
    assert isinstance(model, EchoModel)
    assert model.config_name == "talk"


def test_a_wrapper_is_made_once_for_each_registry():
    one, two = loaded(ECHO), loaded(ECHO)
    assert one.load("talk") is one.load("talk")
    assert one.load("talk") is not two.load("talk")


def test_what_the_caller_does_with_a_configuration_later_does_not_matter():
    config = dict(ECHO)
    registry = loaded([config])
    config["model_type"] = "nonsense"
    assert isinstance(registry.load("talk"), EchoModel)


def test_further_keys_are_arguments_of_the_wrapper():
    registry = loaded({**ECHO, "model_name": "echo-2", "delay_s": 0.5, "generate_args": {"seed": 1}})
    model = registry.load("talk")
    assert (model.model_name, model.delay_s, model.generate_args) == ("echo-2", 0.5, {"seed": 1})


def test_a_doubled_name_keeps_the_first_and_warns():
    registry = loaded(ECHO)
    with pytest.warns(AgentScopeWarning, match="'talk' is known already; the first one stays"):
        registry.read([{**ECHO, "delay_s": 3}, {**ECHO, "config_name": "new"}])
    assert registry.load("talk").delay_s == 0
    assert registry.names() == ["talk", "new"]


def test_clear_existing_starts_again():
    registry = loaded(ECHO)
    old = registry.load("talk")
    registry.read({**ECHO, "delay_s": 3}, clear_existing=True)
    assert registry.load("talk") is not old
    registry.clear()
    assert registry.names() == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "fake_echo"},
        {"config_name": None, "model_type": "fake_echo"},
        {"config_name": "", "model_type": "fake_echo"},
        {"config_name": 3, "model_type": "fake_echo"},
        {"config_name": "a"},
        {"config_name": "a", "model_type": None},
        {"config_name": "a", "model_type": 3},
        "talk",
        None,
        [],
    ],
)
def test_a_configuration_that_is_none_is_refused_and_none_of_its_list_is_read(config):
    registry = loaded({**ECHO, "config_name": "old"})
    with pytest.raises(ConfigError):
        registry.read([ECHO, config], clear_existing=True)
    assert registry.names() == ["old"]


@pytest.mark.parametrize("configs", [3, None, {1}, object()])
def test_what_is_no_configuration_at_all_is_refused(configs):
    with pytest.raises(ConfigError):
        loaded(configs)


@pytest.mark.parametrize("text", ["", "{", "not json", "3", '"text"', "null", "[3]", "NaN"])
def test_a_file_that_holds_none_is_refused(tmp_path, text):
    (tmp_path / "models.json").write_text(text)
    with pytest.raises(ConfigError):
        loaded(tmp_path / "models.json")


def test_a_file_that_is_missing_is_said_to_be():
    with pytest.raises((ConfigError, FileNotFoundError), match="no_such_file"):
        loaded("no_such_file.json")


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known():
    registry = loaded([ECHO, {**ECHO, "config_name": "other"}])
    with pytest.raises(
        ConfigError, match=r"named 'tlak'; did you mean 'talk'\?.*known: talk, other, .*fake:"
    ):
        registry.load("tlak")
    with pytest.raises(ConfigError, match="named 'zzz'; known") as caught:
        registry.load("zzz")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "model", ["", ":", "fake", "fake:", "fake:nothing", "nobody:x", "FAKE:echo", "os:system", "base:x"]
)
def test_a_string_that_names_no_model_is_refused(model):
    with pytest.raises(ConfigError):
        loaded(ECHO).load(model)


def test_a_provider_and_model_need_no_configuration():
    assert isinstance(ModelRegistry().load("fake:echo"), EchoModel)


def test_an_unknown_type_is_refused_with_the_nearest():
    registry = loaded({"config_name": "a", "model_type": "fake_ecko"})
    with pytest.raises(ConfigError, match=r"'fake_ecko' in 'a'; did you mean 'fake_echo'\?"):
        registry.load("a")


def test_arguments_that_do_not_fit_are_refused_with_the_configurations_name():
    with pytest.raises(ConfigError, match=r"'talk'.*colour"):
        loaded({**ECHO, "colour": "blue"})


def test_a_subclass_that_inherits_a_type_does_not_replace_its_parent(registered):
    class Louder(EchoModel):
        pass

    assert type(loaded(ECHO).load("talk")) is EchoModel
    assert Louder().model_type == "fake_echo"


def test_a_type_of_ones_own_is_known_by_its_name(registered):
    class Mine(EchoModel):
        model_type = "test_base_mine"

    assert type(loaded({**ECHO, "model_type": "test_base_mine"}).load("talk")) is Mine


def test_a_type_that_is_taken_is_refused(registered):
    with pytest.raises(ConfigError, match="'fake_echo' of Usurper is taken by EchoModel"):

        class Usurper(ModelWrapperBase):
            model_type = "fake_echo"

            async def _call(self, messages, args):
                raise AssertionError

    assert type(loaded(ECHO).load("talk")) is EchoModel


async def test_a_wrapper_that_names_no_type_works():
    model = Plain()
    assert (await model([])).text == "{}"
    assert isinstance(model.model_name, str)
    with pytest.raises(BadResponse):
        await model([], parse_func=_never, max_retries=1)


def test_a_wrapper_must_be_able_to_answer():
    class Empty(ModelWrapperBase):
        pass

    with pytest.raises(TypeError, match="_call"):
        Empty()


# -- calls and parsing --


async def test_arguments_of_a_call_go_over_those_of_the_wrapper():
    model = Plain(generate_args={"seed": 1, "top_p": 0.5})
    assert json.loads((await model([], seed=2)).text) == {"seed": 2, "top_p": 0.5}
    assert json.loads((await model([])).text) == {"seed": 1, "top_p": 0.5}


async def test_each_attempt_gets_its_arguments():
    class Taking(ModelWrapperBase):
        async def _call(self, messages, args):
            return ModelResponse(str(args.pop("seed")))

    model, seen = Taking(generate_args={"seed": 1}), []
    for _ in range(2):
        with pytest.raises(BadResponse):
            await model([], parse_func=lambda response: seen.append(response.text) or 1 / 0)
    assert seen == ["1"] * 6


def parse_int(response):
    return ModelResponse(response.text, raw=int(response.text))


async def parse_int_async(response):
    await asyncio.sleep(0)
    return parse_int(response)


@pytest.mark.parametrize("parse", [parse_int, parse_int_async, functools.partial(parse_int)])
async def test_e05_a_parse_function_makes_the_answer(parse):
    model = ScriptedModel(["no", "7", "8"])
    response = await model("question", parse_func=parse)
    assert (response.text, response.raw) == ("7", 7)
    assert model.calls == ["question"] * 2


async def test_e05_after_two_bad_answers_the_third_is_taken():
    model = ScriptedModel(["no", "neither", "7", "8"])
    assert (await model("question", parse_func=parse_int)).raw == 7
    assert len(model.calls) == 3


@pytest.mark.parametrize(("max_retries", "calls"), [(None, 3), (0, 3), (1, 1), (2, 2), (5, 5)])
async def test_e05_the_model_is_asked_so_many_times_and_then_it_is_an_error(max_retries, calls):
    model = ScriptedModel(["no"], loop=True)
    with pytest.raises(BadResponse, match="parse_int: invalid literal") as caught:
        await model("question", parse_func=parse_int, max_retries=max_retries)
    assert len(model.calls) == calls
    assert caught.value.raw == "no"
    assert isinstance(caught.value.__cause__, ValueError)


async def test_an_error_names_a_parse_function_without_a_name():
    with pytest.raises(BadResponse, match="could be parsed by"):
        await ScriptedModel(["no"])("x", parse_func=functools.partial(parse_int), max_retries=1)


@pytest.mark.parametrize("is_async", [False, True])
async def test_e05_a_fault_handler_gets_the_last_answer(is_async):
    def mend(response):
        return ModelResponse(f"mended {response.text}")

    async def mend_async(response):
        await asyncio.sleep(0)
        return mend(response)

    model = ScriptedModel(["one", "two"])
    response = await model(
        "x", parse_func=parse_int, fault_handler=mend_async if is_async else mend, max_retries=2
    )
    assert response.text == "mended two"


async def test_a_fault_handler_that_fails_is_the_error():
    def fail(response):
        raise KeyError("beyond repair")

    with pytest.raises(KeyError, match="beyond repair"):
        await ScriptedModel(["no"], loop=True)("x", parse_func=parse_int, fault_handler=fail)


async def test_without_a_parse_function_the_others_have_no_effect():
    response = await ScriptedModel(["no"])("x", fault_handler=_never, max_retries=5)
    assert response.text == "no"


async def test_a_call_that_fails_is_not_repeated_by_parsing():
    model = ScriptedModel([ConnectionError("down"), "7"])
    with pytest.raises(ConnectionError, match="down"):
        await model("x", parse_func=parse_int, fault_handler=_never)
    assert len(model.calls) == 1


async def test_a_negative_number_of_attempts_is_refused():
    with pytest.raises(ConfigError):
        await ScriptedModel(["7"])("x", parse_func=parse_int, fault_handler=_never, max_retries=-1)


async def test_cancelling_a_caller_that_parses_ends_it():
    parsing = asyncio.Event()

    async def parse(response):
        parsing.set()
        await asyncio.Event().wait()

    async def ask():
        return await ScriptedModel(["x"])("x", parse_func=parse)

    asking = asyncio.create_task(ask())
    await parsing.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


# -- the form of messages --

SYSTEM = Msg("system", "S", "system")
BOB = Msg("Bob", "Hi", "assistant", url="U")
AL = Msg("Al", {"a": "é"}, "user")


@pytest.mark.parametrize(
    "given",
    [(SYSTEM, BOB, AL), (SYSTEM, [BOB, AL]), ([SYSTEM, [BOB, [AL]]],), (None, SYSTEM, [None, BOB], [], AL)],
)
def test_format_gives_role_name_and_content_of_each_message(given):
    formatted = EchoModel().format(*given)
    assert formatted == [
        {"role": "system", "name": "system", "content": "S"},
        {"role": "assistant", "name": "Bob", "content": "Hi"},
        {"role": "user", "name": "Al", "content": '{"a":"é"}'},
    ]
    assert list(formatted[0]) == ["role", "name", "content"]


def test_format_for_one_speaker_tells_its_own_turns_from_the_others():
    tool = Msg("calculator", "4", "tool")
    assert EchoModel().format(SYSTEM, [BOB, AL, tool], me="Bob") == [
        {"role": "system", "content": "S"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": 'Al: {"a":"é"}'},
        {"role": "tool", "content": "4"},
    ]
    assert EchoModel().format(BOB, me="Al") == [{"role": "user", "content": "Bob: Hi"}]


def test_format_of_nothing_is_an_empty_list():
    assert EchoModel().format() == EchoModel().format(None, []) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{x} %s <b>", "{x} %s <b>"),
        ("", ""),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        ([1, "é"], '[1,"é"]'),
        ([TextPart("look"), ImagePart("http://a"), TextPart("there")], "look\nthere"),
    ],
)
def test_format_makes_text_of_any_content(content, text):
    assert EchoModel().format(Msg("A", content, "user"))[0]["content"] == text


@pytest.mark.parametrize(
    "wrong", ["text", {"role": "user", "content": "x"}, (AL,), 3, object(), [AL, "text"], b""]
)
@pytest.mark.parametrize("me", [None, "Al"])
def test_format_refuses_what_is_no_message(wrong, me):
    with pytest.raises(TypeError, match=r"format\(\) takes messages"):
        EchoModel().format(AL, wrong, me=me)


def test_format_takes_thoughts_and_changes_nothing():
    msgs = [Tht("hm"), AL]
    assert [each["content"] for each in EchoModel().format(msgs)] == ["hm", '{"a":"é"}']
    assert len(msgs) == 2


# -- responses and streams --


def test_a_response_is_shown_as_json():
    shown = json.loads(str(ModelResponse("hi", embedding=[[0.5]], image_urls=["u"], raw={"a": object})))
    assert shown == {"text": "hi", "embedding": [[0.5]], "image_urls": ["u"], "raw": {"a": str(object)}}
    assert json.loads(str(ModelResponse())) == dict.fromkeys(["text", "embedding", "image_urls", "raw"])


def test_a_response_is_frozen_and_starts_empty():
    response = ModelResponse()
    with pytest.raises(AttributeError):
        response.text = "x"
    assert (response.texts, response.tool_calls, response.usage) == ([], [], None)
    assert ModelResponse().tool_calls is not response.tool_calls


async def test_the_response_of_a_stream_is_there_at_its_end_only():
    async with ScriptedModel(["one two"]).stream("x") as stream:
        assert isinstance(stream, ModelStream)
        with pytest.raises(RuntimeError, match="has not ended"):
            _ = stream.response
        assert [delta.text async for delta in stream] == ["one", " two"]
        assert stream.response.text == "one two"
        assert [delta async for delta in stream] == []
    assert stream.response.text == "one two"


async def test_a_stream_left_early_has_no_response():
    async with ScriptedModel(["one two"]).stream("x") as stream:
        await anext(stream)
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = stream.response


class Tap(ModelWrapperBase):
    """Speaks for ever; knows when it was closed."""

    def __init__(self):
        super().__init__()
        self.closed = asyncio.Event()

    async def _call(self, messages, args):
        raise AssertionError("streams only")

    async def _stream(self, messages, args):
        try:
            while True:
                await asyncio.sleep(0)
                yield Speech("text", "drip ")
        finally:
            self.closed.set()


async def test_leaving_early_closes_the_request():
    tap = Tap()
    async with tap.stream("x") as stream:
        async for _ in stream:
            break
        assert not tap.closed.is_set()
    assert tap.closed.is_set()


async def test_an_error_of_the_reader_closes_the_request():
    tap = Tap()
    with pytest.raises(KeyError, match="mine"):
        async with tap.stream("x") as stream:
            async for _ in stream:
                raise KeyError("mine")
    assert tap.closed.is_set()


async def test_cancelling_the_reader_closes_the_request():
    tap, began = Tap(), asyncio.Event()

    async def read():
        async with tap.stream("x") as stream:
            async for _ in stream:
                began.set()

    reading = asyncio.create_task(read())
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert tap.closed.is_set()


async def test_an_error_of_the_model_reaches_the_reader_as_it_is():
    problem = ConnectionError("cut")

    class Cut(ModelWrapperBase):
        async def _call(self, messages, args):
            raise AssertionError

        async def _stream(self, messages, args):
            yield Speech("text", "half")
            raise problem

    heard = []
    with pytest.raises(ConnectionError) as caught:
        async with Cut().stream("x") as stream:
            async for delta in stream:
                heard.append(delta.text)  # noqa: PERF401  # what was heard until the error
    assert caught.value is problem
    assert heard == ["half"]
    with pytest.raises(RuntimeError):
        _ = stream.response


async def test_a_wrapper_without_a_stream_of_its_own_streams_its_whole_answer():
    call = ToolCallPart("1", "add", {"a": 1})

    class Whole(ModelWrapperBase):
        async def _call(self, messages, args):
            return ModelResponse("text", thinking="hm", tool_calls=[call], usage=Usage(1, 2))

    async with Whole().stream("x") as stream:
        deltas = [delta async for delta in stream]
    assert deltas == [Speech("thinking", "hm"), Speech("text", "text"), Speech("tool_call", data=call)]
    assert stream.response.usage == Usage(1, 2)


async def test_arguments_reach_a_stream_too():
    async with Plain(generate_args={"seed": 1}).stream("x", top_p=2) as stream:
        assert [json.loads(delta.text) async for delta in stream] == [{"seed": 1, "top_p": 2}]


def _never(response):
    raise ValueError("never good enough")
