"""The examples that show one feature each: objects, streams, budgets, many agents, the way from v0.0.2."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import io
import json
import re
import signal
import socket
import sys
from collections.abc import Mapping

import pexpect
import pytest
from command import environ
from run_examples import EXAMPLES, GUARD_S, command_of, load, run, said

import agentscope_async
from agentscope_async import (
    AgentFailure,
    Budget,
    DialogAgent,
    FunctionModel,
    ModelResponse,
    ScriptedModel,
    Usage,
)

EVENT = {"what": "Football", "weekday": "Sunday", "hour": 15, "where": "the park"}


# -- structured_output --


async def test_sentences_become_objects_in_their_order():
    def answer(messages, **_):
        return {**EVENT, "where": messages[-1]["content"].removeprefix("user: ")}

    events = await load("structured_output").read_all(["the park", "the lake"], FunctionModel(answer))
    assert [(event.weekday, event.hour, event.where) for event in events] == [
        ("Sunday", 15, "the park"),
        ("Sunday", 15, "the lake"),
    ]


async def test_sentence_that_cannot_be_read_stands_in_its_place_as_a_failure():
    def answer(messages, **_):
        return EVENT if "good" in messages[-1]["content"] else {**EVENT, "hour": 99}

    module = load("structured_output")
    bad, good = await module.read_all(["bad", "good"], FunctionModel(answer))
    assert isinstance(bad, AgentFailure)
    assert good.what == "Football"
    assert module.row(bad) == "(not read: hour: Input should be less than or equal to 23)"


def test_structured_output_takes_other_sentences_from_a_file(tmp_path):
    (tmp_path / "script").write_text("one\ntwo\n")
    lines = run(tmp_path, "structured_output", "--model", "fake:echo", "--script", "script")
    reason = "    (not read: Invalid JSON: expected value at line 1 column 1)"
    assert lines == ["one", reason, "two", reason]


# -- streaming_cli --


async def test_stream_prints_the_whole_answer(capsys):
    answer = ModelResponse("The sea is wide.", usage=Usage(9, 5))
    await load("streaming_cli").converse(ScriptedModel([answer]), said("tell me", "exit"))
    assert capsys.readouterr().out == "Assistant: The sea is wide. [5 tokens]\n"


def test_ctrl_c_while_it_speaks_ends_the_answer_and_not_the_program(tmp_path):
    (tmp_path / "models.json").write_text('{"config_name": "slow", "model_type": "fake_echo", "delay_s": 40}')
    program, *args = command_of("streaming_cli", "--model", "slow", "--model-configs", "models.json")
    terminal = pexpect.spawn(
        program, args, cwd=str(tmp_path), env=environ(), encoding="utf-8", timeout=GUARD_S
    )
    terminal.expect_exact("User input: ")
    terminal.sendline("tell me")
    terminal.expect_exact("Assistant: ")
    terminal.kill(signal.SIGINT)
    terminal.expect_exact("(interrupted)")
    terminal.expect_exact("User input: ")
    terminal.sendline("exit")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


# -- budgeted_team --


async def test_team_never_spends_more_than_it_has_and_ends_when_a_call_does_not_fit(capsys):
    module = load("budgeted_team")
    answers = [ModelResponse("A title", usage=Usage(50, 40)) for _ in range(99)]
    model = module.Priced(ScriptedModel(answers, model_name="m"))
    team = [DialogAgent(name, "write", model, use_memory=False) for name in "abcd"]
    # An answer costs 90 millionths, and 98 are reserved for it at most.
    budget = Budget(usd=0.001, prices={"m": (1.0, 1.0)}, max_output_tokens=48)
    with budget:
        count = await module.work(team, budget)
    assert count == round(budget.spent.usd / 90e-6)
    assert 0.001 - 100e-6 < budget.spent.usd <= 0.001
    assert "is not asked: it could cost $0.0000" in capsys.readouterr().out


def test_budgeted_team_as_a_command_says_what_is_left(tmp_path):
    lines = run(tmp_path, "budgeted_team", "--model", "fake:echo", "--usd", "0.0002")
    spent, given = re.fullmatch(r"\d+ answers for \$([\d.]+) of \$([\d.]+)", lines[-1]).groups()
    assert 0 < float(spent) <= float(given) == 0.0002


# -- million_agents --


async def test_crowd_s_average_falls_by_a_third_each_round(capsys):
    module = load("million_agents")
    model = module.crowd(seed=1)
    model.delay_s = 0.0
    agents = [module.Guesser(f"agent{number}", model) for number in range(3000)]
    guesses = await module.play(agents, rounds=3)
    averages = [sum(each) / len(each) for each in guesses]
    assert averages == pytest.approx([32.9, 21.6, 14.2], abs=0.8)
    assert [agent.guess for agent in agents] == guesses[-1]
    assert capsys.readouterr().out.count("Round ") == 3


async def test_progress_says_how_many_have_guessed(monkeypatch):
    told = asyncio.Event()

    class Terminal(io.StringIO):
        def flush(self):
            told.set()

    module = load("million_agents")
    monkeypatch.setattr(module, "TELL_EVERY_S", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    early = asyncio.ensure_future(asyncio.sleep(0, "a"))
    late = asyncio.ensure_future(told.wait())
    await early
    assert await module.all_told([early, late]) == ["a", True]
    assert terminal.getvalue().startswith("1 of 2 have guessed\n")


def test_bars_count_everybody():
    lines = load("million_agents").bars([0, 4, 5, 100]).splitlines()
    assert [line.split()[-1] for line in lines] == ["2", "1", "1"]
    assert lines[-1].startswith(" 95 to 100")


@pytest.mark.parametrize(
    ("text", "guess"), [("I say 33.5!", 33.5), ("999", 100.0), ("none", 50.0), ("0", 0.0)]
)
def test_guess_is_read_from_any_text(text, guess):
    assert load("million_agents").number_in(text, 50.0) == guess


def test_million_agents_draws_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    lines = run(tmp_path, "million_agents", "--agents", "500", "--rounds", "1", "--picture", "h.png")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    assert "The picture is in h.png." in lines


# -- migration_from_agentscope --

TABLE = EXAMPLES / "migration_from_agentscope" / "README.md"
V002 = """
agents: AgentBase Operator DialogAgent DictDialogAgent TextToImageAgent UserAgent
agents: RpcAgentServerLauncher ReActAgent
memory: MemoryBase TemporaryMemory
message: MessageBase Msg Tht PlaceholderMessage deserialize serialize
models: ModelWrapperBase ModelResponse PostAPIModelWrapperBase PostAPIChatWrapper
models: OpenAIWrapperBase OpenAIChatWrapper
models: OpenAIDALLEWrapper OpenAIEmbeddingWrapper load_model_by_config_name read_model_configs
models: clear_model_configs
models: DashScopeChatWrapper DashScopeImageSynthesisWrapper DashScopeTextEmbeddingWrapper
models: OllamaChatWrapper
models: OllamaEmbeddingWrapper OllamaGenerationWrapper GeminiChatWrapper GeminiEmbeddingWrapper
msghub: MsgHubManager msghub
pipelines: PipelineBase IfElsePipeline SwitchPipeline ForLoopPipeline WhileLoopPipeline
pipelines: SequentialPipeline
pipelines: sequentialpipeline ifelsepipeline placeholder switchpipeline forlooppipeline
pipelines: whilelooppipeline
prompt: PromptType PromptEngine
rpc: RpcAgentClient RpcMsg RpcAgentServicer RpcAgentStub add_RpcAgentServicer_to_server
service: execute_python_code create_file delete_file move_file create_directory delete_directory
service: move_directory
service: read_text_file write_text_file read_json_file write_json_file bing_search google_search
service: query_mysql
service: query_sqlite query_mongodb ServiceResponse ServiceFactory cos_sim summarization
service: retrieve_from_list
service: ServiceExecStatus digest_webpage load_web parse_html_to_text get_help
utils: setup_logger MonitorBase QuotaExceededError MonitorFactory
web: init
agentscope: init init_process agents memory models pipelines service message prompt web msghub
"""
"""What ``__all__`` lists in the wheel of AgentScope 0.0.2 on PyPI, or a module without one defines."""


def rows_below(heading):
    """Return the cells of each row of a table, without its head."""
    section = TABLE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line[1:-1].split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]


def table_rows():
    """Return (names, fate, remark) of each row."""
    rows = [row for row in rows_below("Every public name") if row[0].startswith(" `")]
    return [(re.findall(r"`(\w+)`", names), fate.strip(), remark) for names, fate, remark in rows]


def test_table_of_names_holds_every_public_name_of_v002():
    public = {name for line in V002.split("\n") for name in line.partition(": ")[2].split()}
    assert public - {name for names, *_ in table_rows() for name in names} == set()


def test_names_that_stay_the_same_can_be_imported():
    same = {name for names, fate, _ in table_rows() if fate == "same" for name in names}
    service = importlib.import_module("agentscope_async.service")
    missing = set()
    for name in same:
        is_module = importlib.util.find_spec(f"agentscope_async.{name}") is not None
        if not (is_module or hasattr(agentscope_async, name) or hasattr(service, name)):
            missing.add(name)
    assert missing == set()


def test_names_that_have_moved_are_where_the_table_says():
    for names, fate, remark in table_rows():
        if fate == "moved":
            module = importlib.import_module(re.search(r"agentscope_async(\.\w+)*", remark)[0])
            assert all(hasattr(module, name) for name in names)


def test_names_with_a_new_name_have_it():
    for new in ("RemoteAgent", "Reply", "MsgHub", "Monitor", "count_tokens"):
        assert f"`{new}`" in TABLE.read_text()
        assert hasattr(agentscope_async, new)


OBJECTS = {
    "agent": "AgentBase",
    "self": "AgentBase",
    "hub": "MsgHub",
    "memory": "TemporaryMemory",
    "engine": "PromptEngine",
    "monitor": "Monitor",
    "model": "OpenAIChatWrapper",
    "gemini": "GeminiChatWrapper",
    "MonitorFactory": "MonitorFactory",
    "ServiceFactory": "ServiceFactory",
}
"""What the table of ``await`` calls something, and its class."""


def called_in(cell):
    """Return (is awaited, object or "", name) of each call in a cell."""
    calls = re.findall(r"`(await )?(?:(\w+)\.)?(\w+)\(", cell)
    return [(bool(awaited), owner, name) for awaited, owner, name in calls]


def test_methods_want_await_or_not_as_the_table_says():
    calls = [call for row in rows_below("What wants `await`") for cell in row[1:] for call in called_in(cell)]
    named = [call for call in calls if call[1]]
    for awaited, owner, name in named:
        method = getattr(getattr(agentscope_async, OBJECTS[owner]), name)
        assert inspect.iscoroutinefunction(method) is awaited, f"{owner}.{name}"
    assert len(named) > 25
    service = importlib.import_module("agentscope_async.service")
    for awaited, _, name in calls:
        function = getattr(agentscope_async, name, None) or getattr(service, name, None)
        if inspect.isfunction(function):
            assert inspect.iscoroutinefunction(function) is awaited, name
    assert {"sequentialpipeline", "create_file", "is_valid_url"} <= {name for _, _, name in calls}


def test_every_asynchronous_method_that_v002_had_stands_in_the_table_of_await():
    methods = {"observe", "speak", "list_models", "broadcast", "retrieve_by_embedding", "get_embeddings"}
    methods |= {"join", "add", "register", "get_value"}
    awaited = {
        name
        for row in rows_below("What wants `await`")
        for is_awaited, _, name in called_in(row[1])
        if is_awaited
    }
    assert methods <= awaited


def test_what_v002_did_with_messages_is_refused_and_what_the_table_gives_instead_works():
    def names():
        msg = agentscope_async.Msg("Ann", "old", "user", mood="sad")
        return {"msg": msg, "Msg": agentscope_async.Msg, "json": json, "Mapping": Mapping}

    for old, new in rows_below("Messages"):
        for code in re.findall(r"`(.*?)`", old):
            if "isinstance" in code:
                assert eval(code, names()) is False
                continue
            with pytest.raises((AttributeError, TypeError)):
                exec(code, names())
        for code in re.findall(r"`([^`]*msg[^`]*)`", new):
            assert eval(code, names())
    same = TABLE.read_text().partition("\n`msg.content`")[2].partition("are the same")[0]
    for code in re.findall(r"`(.*?)`", f"`msg.content`{same}"):
        assert eval(code, names())


def test_modules_that_are_named_for_imports_are_there_and_those_of_v002_are_not():
    section = TABLE.read_text().partition("\n## Imports\n")[2].partition("\n## ")[0]
    gone = re.findall(r"`agentscope_async\.([\w.]+)`", section)
    assert gone == ["agents.agent", "pipelines.pipeline", "utils"]
    for name in re.findall(r"`(\w+)`", section):
        importlib.import_module(
            "agentscope_async" if name == "agentscope_async" else f"agentscope_async.{name}"
        )
    for name in gone:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"agentscope_async.{name}")


async def test_a_host_is_a_node_that_runs_already_unless_a_server_is_to_be_launched():
    agent = DialogAgent("Ann", model="fake:echo")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = {"host": "127.0.0.1", "port": nobody.getsockname()[1]}
        async with agentscope_async.Runtime():
            with pytest.raises(agentscope_async.NodeDown, match="nobody listens"):
                await agent.to_dist(**address)("hi")
            nobody.close()
            assert (await agent.to_dist(**address, launch_server=True)("hi")).text == "user: hi"


def test_port_prints_what_the_script_printed_under_v002(tmp_path):
    assert run(tmp_path, "migration_from_agentscope", "--model", "mine") == [
        "Ann: I read 2 messages.",
        "Bob: I read 3 messages.",
        "Teller: That was round 1.",
        "Ann: I read 5 messages.",
        "Bob: I read 6 messages.",
        "Teller: That was round 2.",
        "That was round 2. The end. Ann remembers 7 messages.",
    ]
