"""PromptEngine, as programs written for AgentScope v0.0.2 use it."""

from __future__ import annotations

import asyncio
import re

import pytest

from agentscope_async import (
    AgentScopeWarning,
    ConfigError,
    ContextTooLong,
    EchoModel,
    FunctionModel,
    Msg,
    PromptEngine,
    PromptType,
    Runtime,
    ScriptedModel,
    ShrinkPolicy,
    TemporaryMemory,
    count_tokens,
)


class Generator(EchoModel):
    """A model that completes a text."""

    takes_messages = False


def engine(model=None, **options):
    with pytest.warns(AgentScopeWarning, match="deprecated"):
        return PromptEngine(model or EchoModel(), **options)


SYSTEM = "You're a player in a chess game, and you are playing {name}."
HISTORY = [
    {"name": "white player", "content": "Move to E4."},
    {"name": "black player", "content": "Okay, I moved to F4."},
]
HINT = "Now decide your next move."


async def test_h01_texts_and_messages_become_one_text():
    prompt = await engine(prompt_type=PromptType.STRING).join(
        SYSTEM, HISTORY, HINT, "{name} player: ", format_map={"name": "white"}
    )
    assert prompt == (
        "You're a player in a chess game, and you are playing white.\nwhite player: Move to E4.\n"
        "black player: Okay, I moved to F4.\nNow decide your next move.\nwhite player: "
    )


async def test_h01_texts_and_messages_become_a_list():
    prompt = await engine().join(SYSTEM, HISTORY, HINT, format_map={"name": "white"})
    assert prompt == [
        {"role": "assistant", "content": "You're a player in a chess game, and you are playing white."},
        {"name": "white player", "role": "assistant", "content": "Move to E4."},
        {"name": "black player", "role": "assistant", "content": "Okay, I moved to F4."},
        {"role": "assistant", "content": "Now decide your next move."},
    ]


async def test_h01_every_kind_of_thing_has_its_line():
    prompt = await engine(prompt_type=PromptType.STRING).join(
        "a {n}",
        None,
        [{"name": "u", "content": "c"}, "x", [1]],
        {"content": "only"},
        {"role": "system", "content": 2},
        {"name": "no content"},
        format_map={"n": "N"},
    )
    assert prompt == "a N\nu: c\nx\n1\nonly\nsystem: 2\n{'name': 'no content'}"


@pytest.mark.parametrize("kind", PromptType)
async def test_h01_a_message_is_as_good_as_a_dict(kind):
    joiner = engine(prompt_type=kind)
    memory = TemporaryMemory()
    memory.add(Msg("ann", "hello", role="user"))
    as_msg = await joiner.join(memory.get_memory())
    assert as_msg == await joiner.join([{"name": "ann", "content": "hello", "role": "user"}])


@pytest.mark.parametrize("kind", PromptType)
async def test_h02_variables_are_replaced_in_the_programs_own_texts_only(kind):
    said = '{"thought": "{name}", "move": {}} {0} %s {'
    prompt = await engine(prompt_type=kind).join(
        'Answer as {name}, like {"move": "E4"}.',
        [Msg("ann", said, "user"), said],
        {"name": "{name}", "content": said},
        format_map={"name": "{other}", "other": "x"},
    )
    text = str(prompt)
    assert 'Answer as {other}, like {"move": "E4"}.' in text
    lines = [item if isinstance(item, str) else item["content"] for item in prompt]
    heard = "".join(lines) if kind is PromptType.LIST else prompt
    assert heard.count(said) == 3


async def test_h02_a_variable_cannot_reach_into_an_object():
    prompt = await engine(prompt_type=PromptType.STRING).join(
        "{key.__class__} {key!r} {key:>9}", format_map={"key": "v"}
    )
    assert prompt == "{key.__class__} {key!r} {key:>9}"


@pytest.mark.parametrize(("kind", "empty"), [(PromptType.LIST, []), (PromptType.STRING, "")])
async def test_h03_none_leaves_no_trace(kind, empty):
    joiner = engine(prompt_type=kind)
    assert await joiner.join(None, [], None) == empty
    assert await joiner.join(None, "a", None) in ("a", [{"role": "assistant", "content": "a"}])


def test_h03_the_kind_of_prompt_is_the_models():
    assert engine(EchoModel()).prompt_type is PromptType.LIST
    assert engine(Generator()).prompt_type is PromptType.STRING
    assert engine(Generator(), prompt_type=PromptType.LIST).prompt_type is PromptType.LIST


async def test_h03_a_model_may_be_named():
    async with Runtime(model_configs={"config_name": "talk", "model_type": "fake_echo"}) as rt:
        assert engine("talk").model is rt.models.load("talk")
        with pytest.raises(ConfigError, match="talk"), pytest.warns(AgentScopeWarning):
            PromptEngine("tlak")


LONG = [Msg("ann" if number % 2 else "bob", f"sentence number {number}", "user") for number in range(100)]


@pytest.mark.parametrize("kind", PromptType)
async def test_h04_truncating_drops_the_oldest_messages(kind):
    joiner = engine(prompt_type=kind, max_length=200)
    rules = Msg("system", "Never say blue.", "system")
    prompt = await joiner.join("You are Ann.", [rules, *LONG], HINT)
    assert 150 < count_tokens(prompt) <= 200
    text = str(prompt)
    assert "You are Ann." in text
    assert "Never say blue." in text
    assert HINT in text
    kept = [int(number) for number in re.findall(r"sentence number (\d+)", text)]
    assert kept == list(range(kept[0], 100))
    assert kept[0] > 0


async def test_h04_what_fits_is_left_alone():
    joiner = engine(max_length=10_000)
    assert len(await joiner.join(LONG)) == 100
    assert len(await engine().join(LONG)) == 100


@pytest.mark.parametrize("policy", ShrinkPolicy)
async def test_h04_what_cannot_fit_is_an_error(policy):
    joiner = engine(max_length=50, max_summary_length=10, shrink_policy=policy)
    with pytest.raises(ContextTooLong, match="max_length"):
        await joiner.join("instruction " * 100, LONG)
    with pytest.raises(ContextTooLong):
        await joiner.join(LONG, Msg("ann", "last word " * 100, "user"))


@pytest.mark.parametrize("kind", PromptType)
async def test_h04_summarizing_puts_a_summary_where_the_dropped_messages_were(kind):
    writer = ScriptedModel(["they counted"] * 100)
    joiner = engine(
        prompt_type=kind,
        max_length=300,
        shrink_policy=ShrinkPolicy.SUMMARIZE,
        max_summary_length=30,
        summarize_model=writer,
    )
    prompt = await joiner.join("You are Ann.", LONG, HINT)
    assert count_tokens(prompt) <= 300
    items = prompt if kind is PromptType.LIST else prompt.split("\n")
    assert "You are Ann." in str(items[0])
    assert "they counted" in str(items[1])
    assert "sentence number 99" in str(items[-2])
    assert "sentence number 0" not in str(prompt)


async def test_h04_the_summary_is_of_all_that_was_dropped_and_of_nothing_else():
    heard = []

    def write(messages):
        heard.append(messages[-1]["content"])
        return f"summary {len(heard)}"

    joiner = engine(
        max_length=300, shrink_policy=ShrinkPolicy.SUMMARIZE, summarize_model=FunctionModel(write)
    )
    prompt = await joiner.join(LONG)
    numbers = [int(number) for text in heard for number in re.findall(r"sentence number (\d+)", text)]
    kept = [int(number) for number in re.findall(r"sentence number (\d+)", str(prompt))]
    assert numbers + kept == list(range(100))
    assert len(heard) > 1  # 100 sentences are more than one request takes
    assert all("200 tokens" in text for text in heard)
    assert "summary 1" in heard[1]
    assert f"summary {len(heard)}" in str(prompt)


async def test_h04_a_summary_that_is_too_long_is_cut():
    writer = ScriptedModel(["blah " * 1000] * 100)
    joiner = engine(
        max_length=200, shrink_policy=ShrinkPolicy.SUMMARIZE, max_summary_length=50, summarize_model=writer
    )
    prompt = await joiner.join(LONG)
    assert count_tokens(prompt) <= 200
    assert 40 * 4 < len(prompt[0]["content"]) < 70 * 4


async def test_h04_without_another_model_the_models_own_summary_is_used():
    joiner = engine(ScriptedModel(["the gist"] * 100), max_length=400, shrink_policy=ShrinkPolicy.SUMMARIZE)
    assert "the gist" in str(await joiner.join(LONG))


async def test_h04_a_failing_summary_fails_the_prompt():
    def write(messages):
        raise LookupError("no")

    joiner = engine(FunctionModel(write), max_length=400, shrink_policy=ShrinkPolicy.SUMMARIZE)
    with pytest.raises(LookupError):
        await joiner.join(LONG)


async def test_h04_prompts_joined_at_once_do_not_disturb_each_other():
    joiner = engine(max_length=300, shrink_policy=ShrinkPolicy.SUMMARIZE, max_summary_length=20)
    alone = await joiner.join(LONG)
    assert await asyncio.gather(*(joiner.join(LONG) for _ in range(5))) == [alone] * 5


def test_h05_making_one_warns_at_the_callers_line():
    with pytest.warns(AgentScopeWarning, match=r"model\.format") as caught:
        PromptEngine(EchoModel())
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_type": 3},
        {"shrink_policy": 7},
        {"max_length": 0},
        {"max_summary_length": 0},
        {"shrink_policy": ShrinkPolicy.SUMMARIZE, "max_length": 100, "max_summary_length": 100},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError), pytest.warns(AgentScopeWarning):
        PromptEngine(EchoModel(), **options)
