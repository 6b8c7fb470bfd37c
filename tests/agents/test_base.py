"""Parity rows B07 and C01 to C07; what every agent inherits."""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import pickle
import warnings
from typing import Any

import orjson
import pytest

from agentscope_async import (
    AgentBase,
    AgentScopeWarning,
    ConfigError,
    DialogAgent,
    EchoModel,
    MailboxFullError,
    MessageError,
    Msg,
    NoRuntimeError,
    Reply,
    Runtime,
    ScriptedModel,
    Speech,
    TemporaryMemory,
    Tht,
    logging as chat_logging,
    msghub,
    sequentialpipeline,
)


class Parrot(AgentBase):
    """Repeats the text of what it gets, and remembers both."""

    async def reply(self, x=None):
        self.memory.add(x)
        said = Msg(self.name, x.text if x is not None else "silence", "assistant")
        self.memory.add(said)
        return said


class Gate(AgentBase):
    """Answers once its door is open."""

    def __init__(self, name="gate", **options):
        super().__init__(name, **options)
        self.door = asyncio.Event()
        self.reached = asyncio.Event()

    async def reply(self, x=None):
        self.reached.set()
        await self.door.wait()
        return Msg(self.name, f"let in: {x.text}", "assistant")


class Keeper(AgentBase):
    """Gives back exactly what it was given, as seen by ``reply``."""

    async def reply(self, x=None, **kwargs):
        self.seen = x
        self.kwargs = kwargs
        return Msg(self.name, "ok", "assistant")


def texts(agent):
    return [unit.text for unit in agent.memory.get_memory()]


def hello(text="hello"):
    return Msg("Ann", text, "user")


# -- B07: replies that are not there yet --


async def test_B07_a_reply_is_there_at_once_with_its_name_and_without_its_content():
    async with asyncio.timeout(30), Runtime():
        gate = Gate("porter")
        reply = gate.submit(hello())
        assert isinstance(reply, Reply)
        assert reply.name == "porter"
        assert not reply.done()
        gate.door.set()
        msg = await reply
        assert msg.content == "let in: hello"
        assert (msg.name, len(msg.id)) == ("porter", 32)
        assert reply.done()


async def test_B07_every_wait_for_a_reply_gives_the_same_message():
    async with asyncio.timeout(30), Runtime():
        gate = Gate()
        reply = gate.submit(hello())
        waits = [asyncio.create_task(_wait(reply)) for _ in range(3)]
        await gate.reached.wait()
        gate.door.set()
        first, *others = [await wait for wait in waits]
        assert all(other is first for other in others)
        assert (await reply).id == first.id


async def test_B07_a_reply_is_passed_as_a_message_to_another_agent():
    async with asyncio.timeout(30), Runtime():
        gate, parrot = Gate(), Parrot("parrot")
        answer = parrot.submit(gate.submit(hello()))
        await gate.reached.wait()
        assert not answer.done()
        gate.door.set()
        assert (await answer).content == "let in: hello"
        assert texts(parrot) == ["let in: hello"] * 2


async def test_B07_a_chain_of_replies_runs_through_a_pipeline():
    async with asyncio.timeout(30), Runtime():
        parrot = Parrot("parrot")
        msg = await sequentialpipeline([Parrot("a"), Parrot("b")], parrot.submit("hi"))
        assert (msg.name, msg.content) == ("b", "hi")


async def test_B07_the_error_of_a_reply_reaches_all_who_wait_and_the_agent_it_was_given_to():
    class Broken(AgentBase):
        async def reply(self, x=None):
            raise LookupError("no such page")

    async with asyncio.timeout(30), Runtime():
        reply = Broken("broken").submit("hi")
        with pytest.raises(LookupError, match="no such page"):
            await reply
        with pytest.raises(LookupError, match="no such page"):
            await reply
        parrot = Parrot("parrot")
        with pytest.raises(LookupError, match="no such page"):
            await parrot(reply)
        assert texts(parrot) == []
        assert (await parrot("still here")).content == "still here"


async def test_B07_cancelling_one_who_waits_leaves_the_reply_to_the_others():
    async with asyncio.timeout(30), Runtime():
        gate = Gate()
        reply = gate.submit(hello())
        impatient = asyncio.create_task(_wait(reply))
        patient = asyncio.create_task(_wait(reply))
        await gate.reached.wait()
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        gate.door.set()
        assert (await patient).content == "let in: hello"


async def test_B07_submit_passes_keywords_to_reply():
    async with asyncio.timeout(30), Runtime():
        keeper = Keeper("keeper")
        await keeper.submit("hi", tone="kind")
        assert keeper.kwargs == {"tone": "kind"}


async def test_B07_submit_is_refused_by_a_full_mailbox_that_rejects():
    async with asyncio.timeout(30), Runtime():
        gate = Gate(capacity=1, overflow="reject")
        first = gate.submit("1")
        await gate.reached.wait()
        second = gate.submit("2")
        with pytest.raises(MailboxFullError) as caught:
            gate.submit("3")
        assert (caught.value.capacity, caught.value.overflow) == (1, "reject")
        gate.door.set()
        assert [(await first).text, (await second).text] == ["let in: 1", "let in: 2"]


async def test_post_and_submit_need_a_runtime_and_say_so():
    parrot = Parrot("parrot")
    with pytest.raises(NoRuntimeError, match=r"submit\(\) of agent 'parrot' needs a Runtime.*async with"):
        parrot.submit("hi")
    with pytest.raises(NoRuntimeError, match=r"post\(\) of agent 'parrot' needs a Runtime.*async with"):
        await parrot.post("hi")
    assert parrot.memory.size() == 0


# -- C01, C02: what is callable, and what one writes --


async def test_C01_an_agent_a_function_and_a_pipeline_are_called_alike():
    async def shout(x):
        return Msg("shouter", x.text.upper(), "assistant")

    async def both(x):
        return await sequentialpipeline([Parrot("parrot"), shout], x)

    for operator in (Parrot("parrot"), shout, both):
        assert isinstance(await operator(hello()), Msg)
    assert (await sequentialpipeline([both, shout], hello())).text == "HELLO"


async def test_C02_reply_is_what_a_subclass_writes():
    parrot = Parrot("parrot")
    msg = await parrot(hello())
    assert (msg.name, msg.content, msg.role) == ("parrot", "hello", "assistant")


async def test_C02_an_agent_without_reply_names_its_class():
    class Mute(AgentBase):
        pass

    with pytest.raises(NotImplementedError, match=r"Mute must write .async def reply"):
        await Mute("m")("hi")


async def test_C02_keywords_go_to_reply():
    keeper = Keeper("keeper")
    await keeper("hi", tone="kind", level=3)
    assert keeper.kwargs == {"tone": "kind", "level": 3}
    with pytest.raises(TypeError, match="tone"):
        await Parrot("parrot")("hi", tone="kind")


def test_C02_a_plain_reply_function_is_refused_where_it_is_written():
    with pytest.raises(TypeError, match=r"Plain\.reply .*async def"):

        class Plain(AgentBase):
            def reply(self, x=None):
                return Msg(self.name, "x", "assistant")


@pytest.mark.parametrize("wrong", [None, "text", {"content": "x"}, 3, [], Speech("text", "x")])
async def test_C02_a_reply_that_is_no_message_is_a_type_error_that_names_it(wrong):
    class Odd(AgentBase):
        async def reply(self, x=None):
            self.memory.add(x)
            return wrong if x.text == "odd" else x

    odd = Odd("odd")
    with pytest.raises(TypeError, match=f"'odd' returned {type(wrong).__name__}"):
        await odd("odd")
    assert odd.memory.size() == 0
    async with asyncio.timeout(30):
        assert (await odd("even")).text == "even"


async def test_a_subclass_with_slots_has_no_dict_and_one_without_has():
    class Slotted(AgentBase):
        __slots__ = ("count",)

        async def reply(self, x=None):
            self.count = 1
            return Msg(self.name, "x", "assistant")

    slotted = Slotted("s")
    await slotted("hi")
    assert slotted.count == 1
    assert not hasattr(slotted, "__dict__")
    with pytest.raises(AttributeError):
        slotted.other = 2
    free = Parrot("p")
    free.other = 2
    assert free.other == 2


# -- what may be given --


async def test_a_bare_string_is_a_users_message():
    keeper = Keeper("keeper")
    await keeper("hi")
    assert (keeper.seen.name, keeper.seen.content, keeper.seen.role) == ("user", "hi", "user")


async def test_a_list_of_messages_and_strings_arrives_as_messages():
    keeper = Keeper("keeper")
    first = hello()
    await keeper([first, "second"])
    assert keeper.seen[0] is first
    assert [each.text for each in keeper.seen] == ["hello", "second"]


async def test_nothing_arrives_as_nothing():
    keeper = Keeper("keeper")
    await keeper()
    assert keeper.seen is None
    assert (await Parrot("p")()).text == "silence"


async def test_a_thought_is_a_message_too():
    keeper = Keeper("keeper")
    await keeper(Tht("hm"))
    assert isinstance(keeper.seen, Tht)


@pytest.mark.parametrize("wrong", [3, 2.5, b"bytes", {"content": "x"}, object(), [3], ["a", None], {"a"}])
async def test_what_is_no_message_is_refused_and_the_agent_lives_on(wrong):
    parrot = Parrot("parrot")
    with pytest.raises(MessageError, match="expected a Msg or a string"):
        await parrot(wrong)
    assert texts(parrot) == []
    async with asyncio.timeout(30):
        assert (await parrot("hi")).text == "hi"
    async with Runtime():
        with pytest.raises(MessageError, match="expected a Msg or a string"):
            await parrot.post(wrong)
        with pytest.raises(MessageError, match="expected a Msg or a string"):
            parrot.submit(wrong)


# -- names and options --


@pytest.mark.parametrize(
    "name",
    ["", "x" * 201, "x" * 10_000, "a\x00", "a\nb", "a\x1b[31m", "\x7f", "a\x85", "\ud800", None, 3, b"a"],
)
def test_a_name_that_cannot_be_shown_is_refused(name):
    with pytest.raises(ConfigError, match="name"):
        Parrot(name)


@pytest.mark.parametrize(
    "name", ["a", "x" * 200, "Ann Lee", "Zoë", "先生", "👩‍🔬", "{name}", "<b>", "%s", "../.."]
)
async def test_a_name_is_free_text(name):
    msg = await Parrot(name)("hi")
    assert (msg.name, msg.text) == (name, "hi")


async def test_two_agents_of_one_name_are_two_agents():
    one, two = Parrot("twin"), Parrot("twin")
    await one("hi")
    assert two.memory.size() == 0


@pytest.mark.parametrize(
    "options", [{"capacity": 0}, {"capacity": -1}, {"capacity": 1.5}, {"overflow": "explode"}]
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError):
        Parrot("p", **options)


@pytest.mark.parametrize("model", [3, object(), "no-such-model", "nobody:nothing", ""])
def test_a_model_that_is_none_is_refused(model):
    with pytest.raises(ConfigError):
        Parrot("p", model=model)


def test_a_model_is_given_once():
    with pytest.raises(ConfigError, match="not both"):
        Parrot("p", model=EchoModel(), model_config_name="fake:echo")
    assert isinstance(Parrot("p", model_config_name="fake:echo").model, EchoModel)


def test_an_agent_is_made_outside_of_any_event_loop():
    parrot = Parrot("p")
    assert asyncio.run(_ask(parrot, "one")).text == "one"
    assert asyncio.run(_ask(parrot, "two")).text == "two"
    assert texts(parrot) == ["one", "one", "two", "two"]


# -- C03: observe --


async def test_C03_observe_remembers_without_a_reply_or_a_model_call():
    model = ScriptedModel(["unused"])
    dialog = DialogAgent("d", "You listen.", model)
    await dialog.observe(hello("one"))
    await dialog.observe("two")
    await dialog.observe([hello("three"), hello("four")])
    assert texts(dialog) == ["one", "two", "three", "four"]
    assert model.calls == []


async def test_C03_observe_takes_what_a_call_takes_whether_idle_or_busy():
    async with asyncio.timeout(30), Runtime():
        for is_busy in (False, True):
            gate = Gate()
            if is_busy:
                asking = gate.submit("wait")
                await gate.reached.wait()
            hearing = asyncio.create_task(gate.observe(["one", hello("two")]))
            reply = Parrot("p").submit("three")
            later = asyncio.create_task(gate.observe(reply))
            if is_busy:
                gate.door.set()
                await asking
            await hearing
            await later
            assert texts(gate) == ["one", "two", "three"]


@pytest.mark.parametrize("wrong", [3, {"a"}, [object()]])
async def test_C03_observe_refuses_what_is_no_message(wrong):
    parrot = Parrot("p")
    with pytest.raises((MessageError, TypeError)):
        await parrot.observe(wrong)
    assert parrot.memory.size() == 0


async def test_C03_observe_keeps_its_place_behind_a_turn():
    async with asyncio.timeout(30), Runtime():
        gate = Gate()
        asking = gate.submit("first")
        await gate.reached.wait()
        hearing = asyncio.create_task(gate.observe("second"))
        await asyncio.sleep(0)
        assert gate.memory.size() == 0
        gate.door.set()
        await asking
        await hearing
        assert texts(gate) == ["second"]


async def test_C03_an_observe_of_ones_own_is_run_as_a_turn():
    class Slow(AgentBase):
        running = 0
        most = 0

        async def observe(self, x):
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
            await asyncio.sleep(0)
            await super().observe(x)
            Slow.running -= 1

    slow = Slow("slow")
    async with asyncio.timeout(30):
        await asyncio.gather(*(slow.observe(str(n)) for n in range(10)))
    assert Slow.most == 1
    assert texts(slow) == [str(n) for n in range(10)]


async def test_C03_a_failing_observe_of_ones_own_leaves_the_memory_as_it_was():
    class Fussy(AgentBase):
        async def observe(self, x):
            await super().observe(x)
            if x.text == "bad":
                raise ValueError("no thanks")

    fussy = Fussy("fussy")
    await fussy.observe("good")
    with pytest.raises(ValueError, match="no thanks"):
        await fussy.observe("bad")
    assert texts(fussy) == ["good"]


# -- C04: audiences --


async def test_C04_a_result_is_observed_by_the_audience_and_not_by_oneself():
    speaker, one, two = Keeper("s"), Keeper("1"), Keeper("2")
    speaker.reset_audience([speaker, one, two])
    msg = await speaker("hi")
    assert one.memory.get_memory() == two.memory.get_memory() == [msg]
    assert speaker.memory.size() == 0


async def test_C04_an_audience_is_reset_reduced_and_cleared():
    speaker, one, two, three = (Keeper(name) for name in "s123")
    speaker.reset_audience([one, two])
    await speaker("a")
    speaker.reset_audience([two, three])
    await speaker("b")
    speaker.rm_audience(three)
    await speaker("c")
    speaker.rm_audience([two])
    await speaker("d")
    speaker.reset_audience((one,))
    speaker.clear_audience()
    await speaker("e")
    assert [agent.memory.size() for agent in (one, two, three)] == [1, 3, 1]


async def test_C04_removing_a_stranger_warns_and_changes_nothing():
    speaker, one, stranger = Keeper("s"), Keeper("1"), Keeper("odd one")
    speaker.reset_audience([one])
    with pytest.warns(AgentScopeWarning, match="'odd one' is not in the audience of 's'"):
        speaker.rm_audience(stranger)
    await speaker("hi")
    assert one.memory.size() == 1


async def test_C04_a_listener_that_is_none_is_refused_at_once():
    speaker = Keeper("s")
    with pytest.raises(TypeError):
        speaker.reset_audience(["not an agent"])
    async with asyncio.timeout(30):
        await speaker("hi")
        await speaker("hi again")


async def test_C04_a_listener_whose_memory_fails_does_not_harm_the_speaker():
    class Full(TemporaryMemory):
        def add(self, memories, embed=False):
            raise OSError("disk full")

        remember = add

    speaker, full, healthy = Keeper("s"), Keeper("full", memory=Full()), Keeper("h")
    speaker.reset_audience([full, healthy])
    async with asyncio.timeout(30):
        assert (await speaker("1")).text == "ok"
        assert (await speaker("2")).text == "ok"
    assert healthy.memory.size() == 2


# -- C05: use_memory --


async def test_C05_without_a_memory_there_is_none():
    dialog = DialogAgent("d", "sys", EchoModel(), use_memory=False)
    assert dialog.memory is None
    await dialog("hi")
    await dialog.observe("heard and forgotten")
    assert dialog.memory is None


async def test_C05_input_is_in_the_prompt_without_memory():
    model = ScriptedModel(["a", "b"])
    dialog = DialogAgent("d", "Be brief.", model, use_memory=False)
    await dialog("What is new?")
    await dialog([hello("one"), "two"])
    assert [each["content"] for each in model.calls[0]] == ["Be brief.", "user: What is new?"]
    assert [each["content"] for each in model.calls[1]] == ["Be brief.", "Ann: one", "user: two"]


async def test_C05_a_memory_of_ones_own_is_used():
    memory = TemporaryMemory()
    parrot = Parrot("p", memory=memory)
    await parrot("hi")
    assert parrot.memory is memory
    assert memory.size() == 2


async def test_agents_do_not_share_a_memory_by_default():
    one, two = Parrot("1"), Parrot("2")
    await one("hi")
    assert two.memory.size() == 0


# -- C06: settings and state --


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sys_prompt": "You are {brief}."},
        {"use_memory": False},
        {"capacity": 7, "overflow": "drop_oldest"},
        {"capacity": 1, "overflow": "reject", "sys_prompt": "", "use_memory": False},
        {"model": "fake:echo"},
    ],
)
def test_C06_settings_go_round(options):
    config = Keeper("first", **options).export_config()
    copied = orjson.loads(orjson.dumps(config))
    second = Keeper("second")
    second.load_from_config(copied)
    assert second.export_config() == config
    assert second.name == "first"
    for key, value in options.items():
        assert config[key] == value
    assert (second.memory is None) == (options.get("use_memory") is False)
    assert isinstance(second.model, EchoModel) == ("model" in options)


async def test_C06_loaded_capacity_and_overflow_are_in_force():
    async with asyncio.timeout(30), Runtime():
        gate = Gate()
        asking = gate.submit("0")
        await gate.reached.wait()
        gate.load_from_config({"capacity": 1, "overflow": "reject"})
        await gate.post("1")
        with pytest.raises(MailboxFullError):
            await gate.post("2")
        gate.door.set()
        await asking


@pytest.mark.parametrize("use_memory", [True, False])
def test_C06_what_a_config_does_not_mention_stays(use_memory):
    keeper = Keeper("old", "prompt", "fake:echo", use_memory=use_memory, capacity=3, overflow="reject")
    before = keeper.export_config()
    keeper.load_from_config({"name": "new"})
    assert keeper.export_config() == {**before, "name": "new"}


@pytest.mark.parametrize(
    "config",
    [
        {"colour": "blue"},
        {"class": "Parrot"},
        {"name": ""},
        {"name": "a\nb"},
        {"capacity": 0},
        {"overflow": "explode"},
        {"model": "no-such-model"},
        {"name": "good", "model": "no-such-model"},
    ],
)
def test_C06_a_config_that_does_not_fit_changes_nothing(config):
    keeper = Keeper("old", "prompt", capacity=3)
    before = keeper.export_config()
    with pytest.raises(ConfigError):
        keeper.load_from_config(config)
    assert keeper.export_config() == before


async def test_C06_state_goes_round_through_json():
    parrot = Parrot("p")
    await parrot(hello())
    await parrot(Msg("Bo", [1, {"a": None}], "user", url=["http://a"], score=3))
    state = orjson.loads(orjson.dumps(await parrot.state()))
    other = Parrot("q")
    await other("forgotten on loading")
    await other.load_state(state)
    assert other.memory.get_memory() == parrot.memory.get_memory()
    assert await other.state() == state
    assert all(isinstance(unit, Msg) for unit in other.memory.get_memory())


async def test_C06_an_agent_talks_on_after_its_state_was_loaded():
    first = DialogAgent("d", "Be brief.", ScriptedModel(["one"]))
    await first("hello")
    model = ScriptedModel(["two"])
    second = DialogAgent("d", "Be brief.", model)
    await second.load_state(await first.state())
    assert (await second("again")).text == "two"
    assert [each["content"] for each in model.calls[0]] == ["Be brief.", "user: hello", "one", "user: again"]


@pytest.mark.parametrize("wrong", [[{"__type": "Nope", "name": "a", "content": "b"}], [3], "text", 3])
async def test_C06_a_state_that_is_none_changes_nothing(wrong):
    parrot = Parrot("p")
    await parrot("hi")
    with pytest.raises((MessageError, TypeError)):
        await parrot.load_state({"memory": wrong})
    assert texts(parrot) == ["hi", "hi"]


async def test_C06_state_waits_for_the_turn():
    async with asyncio.timeout(30), Runtime():
        gate = Gate()
        asking = gate.submit("hi")
        await gate.reached.wait()
        reading = asyncio.create_task(gate.state())
        await asyncio.sleep(0)
        assert not reading.done()
        gate.door.set()
        await asking
        assert await reading == {"memory": []}


async def test_C06_state_is_read_and_written_inside_a_turn():
    class Forgetful(AgentBase):
        async def reply(self, x=None):
            before = await self.state()
            self.memory.add(x)
            await self.load_state(before)
            return Msg(self.name, str(self.memory.size()), "assistant")

    async with asyncio.timeout(30):
        assert (await Forgetful("f")("hi")).text == "0"


async def test_C06_an_agent_without_memory_has_a_state_too():
    keeper = Keeper("k", use_memory=False)
    state = await keeper.state()
    assert state == {"memory": None}
    await keeper.load_state(state)
    assert keeper.memory is None


def test_C06_load_memory_takes_a_list_a_text_or_a_path(tmp_path):
    msgs = [hello("one"), hello("two")]
    text = orjson.dumps([msg.to_dict() for msg in msgs])
    (tmp_path / "memory.json").write_bytes(text)
    for source in (msgs, text.decode(), str(tmp_path / "memory.json")):
        parrot = Parrot("p")
        parrot.load_memory(source)
        assert parrot.memory.get_memory() == msgs
    with pytest.raises(ConfigError, match="use_memory=False"):
        Parrot("p", use_memory=False).load_memory(msgs)


# -- C07: speak --


@pytest.fixture
def log_folder(tmp_path, capsys):
    chat_logging.setup_logger(tmp_path)
    yield tmp_path
    _undo_setup()


def _undo_setup():
    logger = chat_logging._stdlib.getLogger("agentscope_async")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(0)
    chat_logging._default_chat.use(None)


async def test_C07_speak_writes_a_chat_line_to_the_terminal_and_to_the_log(log_folder, capsys):
    class Speaker(AgentBase):
        async def reply(self, x=None):
            msg = Msg(self.name, "I say <b>{this}</b> %s", "assistant")
            await self.speak(msg)
            return msg

    msg = await Speaker("Ann")()
    assert "Ann: I say <b>{this}</b> %s\n" in capsys.readouterr().out
    [line] = (log_folder / "logging.chat").read_text().splitlines()
    assert orjson.loads(line) == msg.to_dict()


async def test_C07_speak_takes_a_string_and_pieces_are_not_logged(log_folder, capsys):
    class Speaker(AgentBase):
        async def reply(self, x=None):
            await self.speak(Speech("text", "pie"))
            await self.speak("pieces")
            return Msg(self.name, "unspoken", "assistant")

    await Speaker("Ann")()
    assert capsys.readouterr().out == "Ann: pieces\n"
    [line] = (log_folder / "logging.chat").read_text().splitlines()
    assert (orjson.loads(line)["name"], orjson.loads(line)["content"]) == ("Ann", "pieces")


async def test_C07_speak_before_any_set_up_is_silent_and_does_not_fail(capsys):
    dialog = DialogAgent("d", "x", EchoModel())
    await dialog("hi")
    assert capsys.readouterr() == ("", "")


async def test_C07_speak_prints_to_the_runtimes_own_terminal(capsys):
    screen = io.StringIO()
    async with Runtime(chat=screen):
        await DialogAgent("Ann", "x", ScriptedModel(["good\x1b[2Jday"]))("hi")
    assert screen.getvalue() == "Ann: good\\x1b[2Jday\n"
    assert capsys.readouterr().out == ""


async def test_C07_a_terminal_that_cannot_show_a_letter_does_not_fail_the_turn():
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    async with Runtime(chat=narrow):
        msg = await DialogAgent("Zoë", "x", ScriptedModel(["déjà vu 🙂"]))("hi")
    assert msg.text == "déjà vu 🙂"
    assert b"vu" in narrow.buffer.getvalue()


# -- turns that fail --


async def test_a_failed_turn_leaves_the_memory_as_it_was():
    class Moody(AgentBase):
        async def reply(self, x=None):
            self.memory.add(x)
            if x.text == "bad":
                raise RuntimeError("not today")
            return x

    moody = Moody("m")
    with pytest.raises(RuntimeError, match="not today"):
        await moody("bad")
    assert moody.memory.size() == 0
    await moody("good")
    with pytest.raises(RuntimeError):
        await moody("bad")
    assert texts(moody) == ["good"]


async def test_a_class_may_keep_what_failed_turns_remembered():
    class Grudge(AgentBase):
        keeps_failed_turns = True

        async def reply(self, x=None):
            self.memory.add(x)
            raise RuntimeError("and I will not forget it")

    grudge = Grudge("g")
    with pytest.raises(RuntimeError):
        await grudge("slight")
    assert texts(grudge) == ["slight"]


@pytest.mark.parametrize("method", ["mark", "rollback"])
async def test_a_memory_that_cannot_be_marked_or_rolled_back_does_not_block_the_agent(method):
    class Shaky(TemporaryMemory):
        is_shaky = True

    def shake(self, *args):
        if self.is_shaky:
            raise OSError("disk gone")
        return getattr(TemporaryMemory, method)(self, *args)

    setattr(Shaky, method, shake)

    class Failing(AgentBase):
        async def reply(self, x=None):
            if x.text == "fail":
                raise ValueError("reply failed")
            return x

    agent = Failing("f", memory=Shaky())
    with pytest.raises((OSError, ValueError)):
        await agent("fail")
    agent.memory.is_shaky = False
    async with asyncio.timeout(30):
        assert (await agent("go on")).text == "go on"


async def test_a_failing_reply_reaches_the_asker_as_it_is():
    class Custom(Exception):
        pass

    problem = Custom("mine")

    class Broken(AgentBase):
        async def reply(self, x=None):
            raise problem

    with pytest.raises(Custom) as caught:
        await Broken("b")("hi")
    assert caught.value is problem


async def test_an_agent_never_awaited_takes_no_turn():
    parrot = Parrot("p")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        coroutine = parrot("hi")
        assert inspect.iscoroutine(coroutine)
        coroutine.close()
    async with asyncio.timeout(30):
        assert (await parrot("really")).text == "really"
    assert texts(parrot) == ["really", "really"]


def test_an_agent_shows_its_class_and_name():
    assert repr(Parrot("Polly")) == "<Parrot 'Polly'>"


async def test_a_message_in_two_memories_cannot_be_changed_through_one():
    one, two = Parrot("1"), Parrot("2")
    msg = Msg("Ann", {"score": [1]}, "user")
    await one(msg)
    await two(msg)
    with pytest.raises(TypeError):
        one.memory.get_memory()[0].content["score"].append(2)
    assert two.memory.get_memory()[0].content == {"score": [1]}
    assert copy.deepcopy(msg) is msg


async def _wait(reply):
    return await reply


async def _ask(agent, x):
    return await agent(x)


# -- careless use --


class Echo(AgentBase):
    async def reply(self, x: Any = None) -> Msg:
        self._remember(x)
        return Msg(self.name, x.text, "assistant")


@pytest.mark.parametrize("has_talked", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
async def test_a_copy_is_an_agent_of_its_own(copied: Any, has_talked: bool) -> None:
    async with Runtime(), asyncio.timeout(30):
        agent = Echo("agent")
        async with msghub([agent]):
            if has_talked:
                await agent("before")
            twin = copied(agent)
            assert (await twin("x")).text == "x"
        assert twin.memory.size() == has_talked + 1
        assert (0 if agent.memory is None else agent.memory.size()) == has_talked
        assert twin._circles == ()


async def test_awaiting_without_a_task_leaves_the_agent_usable() -> None:
    agent = Echo("agent")
    turn = agent("x")

    def drive() -> None:
        with pytest.raises(RuntimeError, match=r"asyncio\.run"):
            turn.send(None)

    asyncio.get_running_loop().call_soon(drive)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        assert (await agent("y")).text == "y"


async def test_a_call_of_ones_own_leaves_streaming_intact() -> None:
    class Loud(Echo):
        def __call__(self, x: Any = None) -> Any:
            return super().__call__("loud")

    async with Loud("agent").stream("x") as stream:
        assert [piece.text async for piece in stream] == ["x"]


async def test_an_agent_that_is_none_leaves_no_hub_behind() -> None:
    class Forgetful(AgentBase):
        def __init__(self) -> None:
            pass

    other = Echo("other")
    with pytest.raises(AttributeError):
        async with msghub([other, Forgetful()]):
            pass
    assert other._circles == ()


@pytest.mark.parametrize("memory", [[], "file.json", 5])
def test_a_memory_that_is_none_is_refused(memory: Any) -> None:
    with pytest.raises(ConfigError, match="MemoryBase"):
        Echo("agent", memory=memory)


async def test_an_agent_without_memory_does_not_swallow_one() -> None:
    agent = Echo("agent", use_memory=False)
    with pytest.raises(ConfigError, match="use_memory=False"):
        agent.load_memory([Msg("user", "x", "user")])
    with pytest.raises(ConfigError, match="use_memory=False"):
        await agent.load_state({"memory": [Msg("user", "x", "user").to_dict()]})


async def test_a_stopped_agent_can_be_saved() -> None:
    agent = Echo("agent")
    await agent("x")
    await agent.stop()
    async with asyncio.timeout(30):
        assert len((await agent.state())["memory"]) == 1
