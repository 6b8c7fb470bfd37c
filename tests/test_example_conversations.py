"""The examples in which people and agents talk, through their own functions and as commands."""

from __future__ import annotations

import asyncio

import pytest
from run_examples import load, run, said

from agentscope_async import DialogAgent, ScriptedModel, UserAgent
from agentscope_async.service import Hit


def texts(messages):
    return [(msg["role"], msg["content"]) for msg in messages]


def speakers(lines):
    return [line.partition(":")[0] for line in lines]


# -- conversation_basic --


async def test_p01_assistant_begins_and_the_user_ends_it(capsys):
    model = ScriptedModel(["Good morning!", "Hi, you."])
    await load("conversation_basic").converse(model, source=said("hi", "exit", "more"))
    assert capsys.readouterr().out.splitlines() == ["Assistant: Good morning!", "Assistant: Hi, you."]
    first, second = model.calls
    assert [role for role, _ in texts(first)] == ["system"]
    assert texts(second)[1:] == [("assistant", "Good morning!"), ("user", "User: hi")]


def test_p01_command_takes_turns_until_exit(tmp_path):
    (tmp_path / "script").write_text("hi\nexit\nmore\n")
    lines = run(tmp_path, "conversation_basic", "--model", "fake:echo", "--script", "script")
    assert speakers(lines) == ["Assistant", "User", "Assistant", "User"]
    assert lines[-1] == "User: exit"


def test_p01_command_ends_with_the_input_of_a_pipe(tmp_path):
    lines = run(tmp_path, "conversation_basic", "--model", "fake:echo", text="hi\n")
    assert "User input: Assistant: User: hi" in lines


# -- conversation_with_mentions --


def circle(source, **answers):
    """The three friends, who give these answers (or else say "yes"), and a user."""
    names = load("conversation_with_mentions").NAMES
    models = {name: ScriptedModel(answers.get(name, ["yes"]), loop=True) for name in names}
    npcs = [DialogAgent(name, model=models[name]) for name in names]
    return npcs, UserAgent("User", source=source)


async def order_of_speakers(capsys, npcs, user, **options):
    await load("conversation_with_mentions").converse(npcs, user, **options)
    return speakers(capsys.readouterr().out.splitlines())


async def test_p02_who_is_mentioned_speaks(capsys):
    npcs, user = circle(said("@Boyu, and you?", "exit"))
    assert await order_of_speakers(capsys, npcs, user) == ["Host", "Boyu"]


async def test_p02_two_mentions_are_two_rounds_in_order(capsys):
    npcs, user = circle(said("@Haotian @Haotian @Boyu", "go on", "go on", "exit"))
    assert await order_of_speakers(capsys, npcs, user) == ["Host", "Haotian", "Haotian", "Boyu"]


async def test_p02_agents_mention_each_other(capsys):
    npcs, user = circle(said("hello", "well", "exit"), Lingfeng=["Ask @Haotian."])
    assert await order_of_speakers(capsys, npcs, user) == ["Host", "Lingfeng", "Haotian"]


async def test_p02_who_says_nothing_in_time_is_passed_over(capsys):
    async def silent(prompt):
        await asyncio.Event().wait()

    npcs, user = circle(silent)
    order = await order_of_speakers(capsys, npcs, user, wait_s=0.01, max_turns=4)
    assert [name for name in order if "(" not in name] == ["Host", "Lingfeng", "Boyu", "Haotian", "Lingfeng"]


async def test_p02_everybody_hears_everything_and_the_announcement_once(capsys):
    npcs, user = circle(said("@Boyu?", "well", "exit"))
    await order_of_speakers(capsys, npcs, user)
    heard = [[(msg.name, msg.text) for msg in agent.memory.get_memory()] for agent in (*npcs, user)]
    assert [name for name, _ in heard[0]] == ["Host", "User", "Boyu", "User", "Boyu", "User"]
    assert heard[0][-1] == ("User", "exit")
    assert all(each == heard[0] for each in heard)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@boyu", []),
        ("@Boyuan", []),
        ("Boyu", []),
        ("me@Boyu", []),
        ("(@Boyu!)", ["Boyu"]),
        ("@Haotian,@Boyu @Boyu", ["Haotian", "Boyu", "Boyu"]),
    ],
)
def test_p02_mention_is_a_whole_name_after_the_sign(text, names):
    module = load("conversation_with_mentions")
    assert module.mentioned(text, module.NAMES) == names


def test_p02_command_takes_an_empty_line_as_silence(tmp_path):
    (tmp_path / "script").write_text("@Haotian, hello\n\nexit\n")
    lines = run(tmp_path, "conversation_with_mentions", "--model", "fake:echo", "--script", "script")
    # The echo of a mention is a mention.
    assert speakers(lines) == ["Host", "User", "Haotian", "(The user says nothing.)", "Haotian", "User"]


# -- conversation_self_organizing --

SCENE = {
    "scenario": "Friends sit in a park.",
    "participants": [
        {"role": "Swim Teacher", "task": "You know how to swim well."},
        {"role": "Child", "task": "You are afraid of the water."},
        {"role": "Doctor", "task": "You know what is healthy."},
    ],
}


async def organized(capsys, **options):
    """Let three talk: the agents, what builder and participants were asked, and what was printed."""
    builder, model = ScriptedModel([SCENE]), ScriptedModel([f"word {number}" for number in range(20)])
    module = load("conversation_self_organizing")
    agents = await module.converse("How do I swim?", model, builder_model=builder, **options)
    return agents, builder.calls, model.calls, capsys.readouterr().out.splitlines()


async def test_p03_builder_s_answer_becomes_agents_with_its_prompts(capsys):
    agents, *_ = await organized(capsys)
    assert [agent.name for agent in agents] == ["Swim_Teacher", "Child", "Doctor"]
    for agent, one in zip(agents, SCENE["participants"], strict=True):
        assert all(each in agent.sys_prompt for each in (one["role"], one["task"], SCENE["scenario"]))


async def test_p03_three_participants_are_asked_twice_and_the_builder_once(capsys):
    _, builder_calls, calls, lines = await organized(capsys)
    assert (len(builder_calls), len(calls)) == (1, 2 * 3)
    assert [line for line in lines if ": word" in line] == [
        f"{name}: word {number}" for number, name in enumerate(["Swim_Teacher", "Child", "Doctor"] * 2)
    ]


async def test_p03_question_comes_first_and_each_hears_only_who_spoke_before(capsys):
    _, (built,), calls, _ = await organized(capsys)
    assert built[-1]["content"].endswith("How do I swim?")
    heard = [call[-1]["content"] for call in calls]
    assert heard[0].endswith("How do I swim?")
    assert heard[1:4] == ["Swim_Teacher: word 0", "Child: word 1", "Doctor: word 2"]
    assert [text for _, text in texts(calls[3])[2:]] == ["word 0", "Doctor: word 2"]


async def test_p03_rounds_can_be_set(capsys):
    assert len((await organized(capsys, max_rounds=1))[2]) == 3


def test_p03_builder_that_names_nobody_is_told_of(tmp_path):
    lines = run(tmp_path, "conversation_self_organizing", "--model", "fake:echo", code=1)
    assert any(line.startswith("The builder named nobody") for line in lines)


# -- conversation_with_langchain --


def chain_that_says(answers):
    """A real runnable that gives these answers, and the list of what it is asked."""
    runnables = pytest.importorskip("langchain_core.runnables", reason="needs langchain-core")
    asked = []

    def answer(given):
        asked.append((given["input"], [(each.type, each.text) for each in given["history"]]))
        return answers[len(asked) - 1]

    return runnables.RunnableLambda(answer), asked


async def test_p04_foreign_chain_is_asked_with_the_user_s_text_and_keeps_the_talk(capsys):
    runnable, asked = chain_that_says(["It is Paris.", "You are welcome."])
    module = load("conversation_with_langchain")
    agent = await module.converse(runnable, said("the capital?", "thanks", "exit", "more"))
    assert capsys.readouterr().out.splitlines() == ["Assistant: It is Paris.", "Assistant: You are welcome."]
    assert asked[0] == ("the capital?", [])
    assert asked[1] == ("thanks", [("human", "the capital?"), ("ai", "It is Paris.")])
    assert agent.memory is None


async def test_p04_reply_of_a_chain_is_a_message_of_an_assistant():
    runnable, _ = chain_that_says(["It is Paris."])
    reply = await load("conversation_with_langchain").LangChainAgent("Assistant", runnable)("the capital?")
    assert (reply.name, reply.role, reply.content) == ("Assistant", "assistant", "It is Paris.")


def test_p04_command_runs_the_chain_of_prompt_model_and_parser(tmp_path):
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    (tmp_path / "script").write_text("hi\nexit\n")
    lines = run(tmp_path, "conversation_with_langchain", "--model", "fake:echo", "--script", "script")
    assert lines == ["User: hi", "Assistant: hi", "User: exit"]


# -- conversation_with_react_agent --


def step(speak, *calls):
    return {"thought": "hm", "speak": speak, "function": [{"name": n, "arguments": a} for n, a in calls]}


async def test_p07_tools_run_once_each_until_there_is_an_answer_and_exit_ends_it(tmp_path):
    (tmp_path / "list.txt").write_text("3 lemons")
    model = ScriptedModel(
        [
            step("I look.", ("read_text_file", {"file_path": "list.txt"}), ("temperature", {"city": "Oslo"})),
            step("I note it.", ("write_text_file", {"file_path": "note.txt", "content": "5 degrees"})),
            step("Three lemons, and it is cold."),
        ]
    )
    model.tool_calling = "text"
    module = load("conversation_with_react_agent")
    await module.converse(model, tmp_path, said("What have I to buy?", "exit", "more"))
    assert (tmp_path / "note.txt").read_text() == "5 degrees"
    assert len(model.calls) == 3
    results = model.calls[1][-2]["content"]
    assert "1. read_text_file:\n    [EXECUTE STATUS]: SUCCESS" in results
    assert "3 lemons" in results
    assert "2. temperature:\n    [EXECUTE STATUS]: SUCCESS" in results
    assert "In Oslo it is 5 degrees." in results


async def test_p07_agent_that_finds_no_answer_stops_after_its_steps(tmp_path, capsys):
    model = ScriptedModel([step("Again.", ("temperature", {"city": "Rome"}))], loop=True)
    model.tool_calling = "text"
    module = load("conversation_with_react_agent")
    await module.converse(model, tmp_path, said("hm?", "exit"), max_iters=3)
    assert len(model.calls) == 3


async def test_p07_files_outside_of_the_folder_are_out_of_reach(tmp_path):
    (tmp_path / "secret.txt").write_text("sesame")
    (root := tmp_path / "root").mkdir()
    model = ScriptedModel([step("", ("read_text_file", {"file_path": "../secret.txt"})), step("No.")])
    model.tool_calling = "text"
    await load("conversation_with_react_agent").converse(model, root, said("?", "exit"))
    assert "FAILED" in str(model.calls[1])
    assert "sesame" not in str(model.calls[1])


def test_p07_command_answers_and_ends_at_exit(tmp_path):
    (tmp_path / "script").write_text("hi\nexit\n")
    lines = run(tmp_path, "conversation_with_react_agent", "--model", "fake:echo", "--script", "script")
    assert (lines[0], lines[-1]) == ("User: hi", "User: exit")
    assert "ITER 1, STEP 1: REASONING" in lines[1]


# -- conversation_with_rag_agents --


class Shelf:
    """A backend of one's own: gives the passages that share a word with the question."""

    def __init__(self, *passages):
        self.passages = passages

    async def query(self, text, top_k=5):
        words = set(text.split())
        found = [each for each in self.passages if words & set(each.split())]
        return [Hit(each, 1.0, "shelf", line=1) for each in found[:top_k]]


def readers(**options):
    """Two agents with shelves of their own, a summarizer, and the models of all three."""
    module = load("conversation_with_rag_agents")
    models = [ScriptedModel([f"{name} says"] * 9) for name in ("tutorial", "code", "summary")]
    shelves = Shelf("cats purr", "dogs bark", "cats sleep", "cats hunt"), Shelf("class Cat", "def cats")
    agents = [
        module.RAGAgent(name, "Answer.", model, shelf, **options)
        for name, model, shelf in zip(("Tutorial", "Code"), models, shelves, strict=False)
    ]
    return module, agents, DialogAgent("Summarizer", "Sum up.", models[2], use_memory=False), models


async def test_p05_p06_readers_get_passages_of_a_backend_of_ones_own_and_the_summarizer_both_answers():
    module, agents, summarizer, (tutorial, code, summary) = readers()
    await module.converse(agents, summarizer, said("tell of cats", "exit now", "more"))
    assert [text for _, text in texts(tutorial.calls[0])] == [
        "Answer.",
        "Context: cats purr\n\ncats sleep",  # the two nearest
        "User: tell of cats",
    ]
    assert "def cats" in str(code.calls[0])
    assert "cats purr" not in str(code.calls[0])
    assert summary.calls[0][-1]["content"] == "User: tutorial says\ncode says\ntell of cats"
    assert len(summary.calls) == 1


async def test_p05_empty_line_ends_it():
    module, agents, summarizer, (*_, summary) = readers()
    await module.converse(agents, summarizer, said("", "more"))
    assert summary.calls == []


@pytest.mark.parametrize("log_retrieval", [True, False])
async def test_p05_retrieval_is_told_of_on_demand(capsys, log_retrieval):
    module, agents, summarizer, _ = readers(log_retrieval=log_retrieval)
    await module.converse(agents, summarizer, said("tell of cats", "exit"))
    assert ("(Code reads shelf, line 1: 1.00)" in capsys.readouterr().out) is log_retrieval


async def test_p06_configuration_says_which_files_are_read_and_how_they_are_cut(tmp_path, monkeypatch):
    pytest.importorskip("sqlite_vec", reason="needs agentscope-async[knowledge]")
    module = load("conversation_with_rag_agents")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "cats.md").write_text("Cats purr and sleep all day long.\n\n" * 20)
    (tmp_path / "cats.py").write_text("def purr(): ...")
    config = [
        {"name": "Text", "paths": ["."], "patterns": ["*.md"], "chunk_chars": 200},
        {"name": "Code", "paths": ["cats.py"]},
    ]
    async with module.knowledge_bases(config, module.embed) as bases:
        found = await bases["Text"].query("purr", top_k=3)
        assert {hit.source for hit in found} == {"cats.md"}
        assert all(len(hit.text) <= 200 for hit in found)
        assert {hit.source for hit in await bases["Code"].query("purr")} == {"cats.py"}
