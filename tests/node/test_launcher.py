"""Agents in child processes: started, started again, told what they need, and never left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from node.inhabitants import HiddenOne, Inhabitant, LoudModel, Other, Picky

from agentscope_async import (
    AgentBase,
    AgentScopeWarning,
    AgentStoppedError,
    ConfigError,
    DialogAgent,
    EchoModel,
    ForbiddenError,
    FunctionModel,
    NodeDown,
    NoRuntimeError,
    QuotaExceededError,
    Runtime,
    RuntimeClosedError,
    ScriptedModel,
    UserAgent,
)
from agentscope_async.node.launched import Child
from agentscope_async.node.launcher import ChildProcess
from agentscope_async.supervision import RestartPolicy

PATIENCE_S = 50
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="child processes need POSIX")


@pytest.fixture
async def rt() -> AsyncIterator[Runtime]:
    async with nobody_left(), asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        yield runtime


@asynccontextmanager
async def nobody_left() -> AsyncIterator[None]:
    """See that afterwards this process has no child it did not have before."""
    _of_other_tests.update(children())
    yield
    assert children() == set()


_of_other_tests: set[int] = set()
"""Servers that were started for other tests and serve all of them."""


def children() -> set[int]:
    """The processes we started that have not ended and been noticed, but for those of other tests."""
    ours = {
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and _field(each, 3) == str(os.getpid())
    }
    return ours - _of_other_tests


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie, which only waits for its parent to take note."""
    return _field(Path(f"/proc/{pid}"), 2) not in ("", "Z")


def _field(process: Path, index: int) -> str:
    try:
        stat = (process / "stat").read_text()
    except OSError:
        return ""
    return [*stat[: stat.index("(")].split(), "", *stat[stat.rindex(")") + 2 :].split()][index]


def text_of(file: str) -> str:
    return Path(file).read_text()


async def until(holds: Callable[[], object]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def pid_of(agent: Any) -> int:
    return int((await agent("pid")).content)


# -- D01: in another process --


async def test_D01_an_agent_answers_from_another_process(rt):
    agent = Inhabitant("a").to_dist()
    pid = await pid_of(agent)
    assert pid != os.getpid()
    assert pid in children()


async def test_D01_a_distributed_agent_is_distributed_already(rt):
    agent = Inhabitant("a").to_dist()
    assert agent.to_dist() is agent
    assert children() == set()


async def test_D01_settings_and_memory_go_along(rt):
    local = Inhabitant("a", "a note", capacity=7)
    await local("remember first")
    agent = local.to_dist()
    await local("remember second")  # before the other one is first used
    assert (await agent("note")).content == "a note"
    assert (await agent("remember third")).content == ["first", "second", "third"]
    assert (await local("remember fourth")).content == ["first", "second", "fourth"]


async def test_D01_each_agent_has_a_process_of_its_own(rt):
    agents = [Inhabitant("a").to_dist(), Inhabitant("b").to_dist()]
    first, second = await asyncio.gather(*(pid_of(agent) for agent in agents))
    assert first != second


async def test_D01_agents_beside_each_other_share_a_process(rt):
    first = Inhabitant("a").to_dist()
    second = Other("b").to_dist(beside=first)
    third = Inhabitant("c").to_dist(beside=second)
    pids = await asyncio.gather(*(pid_of(agent) for agent in (first, second, third)))
    assert len(set(pids)) == 1


async def test_D01_a_class_that_a_running_process_does_not_know_is_refused(rt):
    first = Inhabitant("a").to_dist()
    await first("pid")
    assert await pid_of(Inhabitant("b").to_dist(beside=first)) == await pid_of(first)
    with pytest.raises(ConfigError, match="does not know Other"):
        Other("b").to_dist(beside=first)


@pytest.mark.parametrize("wrong", ["a name", AgentBase("local")])
async def test_D01_beside_what_is_in_no_child_process_is_refused(rt, wrong):
    with pytest.raises(ConfigError, match="beside"):
        Inhabitant("a").to_dist(beside=wrong)


def test_D01_without_a_runtime_there_is_nobody_to_own_the_process():
    with pytest.raises(NoRuntimeError):
        Inhabitant("a").to_dist()


# -- what goes along --


async def test_A09_D11_a_child_works_for_the_same_run_and_counts_against_the_same_quotas(rt, tmp_path):
    async with Runtime(save_dir=tmp_path, project="p", name="n") as saving:
        agent = Inhabitant("a").to_dist()
        facts = (await agent("facts")).content
        assert (facts["run_id"], facts["save_dir"]) == (saving.run.run_id, str(tmp_path))
        await saving.monitor.register("launched", quota=6)
        await saving.monitor.add("launched", 4)
        assert (await agent("count")).content == 5
        assert await saving.monitor.get_value("launched") == 5
        await agent("count")
        for refused in (agent("count"), saving.monitor.add("launched", 1)):
            with pytest.raises(QuotaExceededError):
                await refused
    assert [each.name for each in tmp_path.iterdir()] == [saving.run.run_id]


async def test_A09_models_go_along_by_name_and_as_objects(rt):
    configs = [
        {"config_name": "mine", "model_type": "fake_scripted", "answers": ["from the configuration"]},
        {"config_name": "function", "model_type": "fake_function", "function": len},
    ]
    async with Runtime(model_configs=configs):
        for model, answer in {
            "mine": "from the configuration",
            "fake:echo": "hi",
            ScriptedModel(["from the script"]): "from the script",
            LoudModel(ending="?"): "HI?",
        }.items():
            assert (await Inhabitant("a", model=model).to_dist()("ask hi")).content == answer
        loud = DialogAgent(
            "d", model=LoudModel(), use_memory=False
        ).to_dist()  # its class is ours, its model's not
        assert (await loud("hi")).text == "USER: HI!"
        with pytest.raises(ConfigError, match=r"'function'\] is no JSON value.*__init__ of the agent class"):
            Inhabitant("a", model="function").to_dist()


async def test_A_child_finds_the_modules_of_its_parent_and_nothing_on_its_standard_input(rt, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, "/a path/of our own"])
    facts = (await Inhabitant("a").to_dist()("facts")).content
    assert facts["path"] == list(map(os.path.abspath, sys.path))
    assert facts["pythonpath"] == os.environ.get("PYTHONPATH")
    assert (facts["stdin"], facts["main"]) == ("", "agentscope_async.node.child")


async def test_no_secret_is_on_the_command_line_or_in_the_environment_of_a_child(rt, monkeypatch):
    secret = "a-key-only-in-the-configuration"
    config = {"config_name": "m", "model_type": "openai_chat", "model_name": "x", "api_key": secret}
    async with Runtime(model_configs=config) as runtime:
        agent = Inhabitant("a", model="m").to_dist()
        pid = await pid_of(agent)
        seen = text_of(f"/proc/{pid}/cmdline") + text_of(f"/proc/{pid}/environ")
        assert "agentscope_async.node.child" in seen
        for each in (secret, runtime.node.family_token, agent.locator.child._token):
            assert each
            assert each not in seen


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: type("Local", (AgentBase,), {"__module__": "__main__"})("a"), "script that runs"),
        (lambda: local_class()("a"), "in a function"),
        (lambda: HiddenOne("a"), "is not what node.inhabitants has"),
        (lambda: DialogAgent("d", None, local_model()), "in a function"),
        (lambda: DialogAgent("d", None, FunctionModel(str)), "function= of this FunctionModel"),
    ],
)
async def test_what_a_child_cannot_import_is_refused_at_once_with_what_to_do(rt, make, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        make().to_dist()
    assert "Move the class into a module of its own" in str(caught.value) or "__init__" in str(caught.value)


def local_class() -> Any:
    class Local(AgentBase):
        pass

    return Local


def local_model() -> Any:
    class LocalModel(EchoModel):
        pass

    return LocalModel()


def test_D03_a_person_stays_at_the_terminal():
    with pytest.raises(ConfigError, match="listen="):
        UserAgent("u").to_dist()


async def test_an_agent_that_cannot_be_made_over_there_is_an_error_to_its_asker(rt):
    agent = Picky("p").to_dist()
    with pytest.raises(ValueError, match="not here"):
        await agent("pid")


# -- D02: when, and where --


async def test_D02_a_process_starts_when_its_agent_is_first_used(rt):
    agent = Inhabitant("a").to_dist()
    await asyncio.sleep(0)
    assert (children(), agent.url) == (set(), None)
    await agent("pid")
    assert len(children()) == 1


async def test_D02_an_eager_one_starts_at_once(rt):
    agent = Inhabitant("a").to_dist(lazy_launch=False)
    await until(lambda: agent.url)
    assert len(children()) == 1


async def test_D02_many_asks_before_it_runs_start_one_process_and_keep_their_order(rt):
    agent = Inhabitant("a").to_dist()
    replies = await asyncio.gather(*(agent(f"remember {number}") for number in range(20)))
    assert replies[-1].content == [str(number) for number in range(20)]
    assert len(children()) == 1


async def test_D02_a_port_that_is_free_is_used(rt):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent = Inhabitant("a").to_dist(port=port)
    await agent("pid")
    assert agent.url.startswith(f"ws://127.0.0.1:{port}/")


async def test_D02_for_a_port_that_is_taken_another_one_is_chosen(rt):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent = Inhabitant("a").to_dist(port=port)
        with pytest.warns(AgentScopeWarning, match=f"Port {port} is taken"):
            await agent("pid")
    assert f":{port}/" not in agent.url


@pytest.mark.parametrize(("local_mode", "address"), [(True, "0100007F"), (False, "00000000")])
async def test_D04_a_child_listens_on_loopback_unless_told_otherwise(rt, local_mode, address):
    agent = Inhabitant("a").to_dist(local_mode=local_mode)
    await agent("pid")
    port = int(agent.url.rpartition("/")[0].rpartition(":")[2])
    listening = [line.split()[1] for line in text_of("/proc/net/tcp").splitlines() if " 0A " in line]
    assert [each for each in listening if each.endswith(f":{port:04X}")] == [f"{address}:{port:04X}"]


async def test_D03_a_node_that_runs_already_makes_the_agent(rt):
    token = "a-token-for-this-test-only-01234"
    async with Runtime(listen="ws://127.0.0.1:0", token=token, allow=[Inhabitant]) as host:
        port = int(host.url.rpartition(":")[2])
        local = Inhabitant("a", "from afar")
        await local("remember this")
        agent = local.to_dist("127.0.0.1", port, token=token)
        assert (await agent("note")).content == "from afar"
        assert (await agent("remember that")).content == ["this", "that"]
        assert await pid_of(agent) == os.getpid()
        with pytest.raises(ForbiddenError):
            await Other("o").to_dist("127.0.0.1", port, token=token)("pid")
        with pytest.raises(ConfigError, match="port"):
            local.to_dist("127.0.0.1")
        bringing = Inhabitant(
            "b", {"deep": [{"model_type": "openai_chat", "base_url": "http://127.0.0.1:1"}]}
        )
        with pytest.raises(ConfigError, match="known here"):
            await bringing.to_dist("127.0.0.1", port, token=token)("pid")


async def test_D07_a_result_goes_straight_from_one_child_to_another(rt):
    first, second = Inhabitant("a", "links").to_dist(), Inhabitant("b").to_dist()
    assert (await second("links")).content == [rt.node.name]
    # What the first one answers, the second one gets as its message, and tells its links.
    links = (await second(first.submit("note"))).content
    assert links == sorted([rt.node.name, first.locator.child.name])


# -- when a process ends unasked --


@pytest.fixture
def soon(monkeypatch):
    """Restarts follow at once; everything else about them stays."""
    monkeypatch.setattr(RestartPolicy.__init__, "__defaults__", (1e-6, 1e-5, 5, 1000.0))


@pytest.mark.usefixtures("soon")
async def test_D13_asks_under_way_when_a_process_is_killed_end_with_node_down(rt, tmp_path):
    agent = Inhabitant("a").to_dist()
    pid = await pid_of(agent)
    asks = [asyncio.create_task(agent(f"hold {tmp_path / 'held'}")) for _ in range(50)]
    await until((tmp_path / "held").exists)
    os.kill(pid, signal.SIGKILL)
    for error in await asyncio.gather(*asks, return_exceptions=True):
        assert isinstance(error, NodeDown)
        assert (error.reason, error.outcome) == ("exited", "unknown")


@pytest.mark.usefixtures("soon")
async def test_D13_a_process_that_ended_is_started_again_with_what_its_agents_began_with(rt):
    local = Inhabitant("a", "note")
    await local("remember before")
    first = local.to_dist()
    second = Inhabitant("b").to_dist(beside=first)
    pid = await pid_of(first)
    await first("remember forgotten")
    await second("remember forgotten")
    with pytest.raises(NodeDown):
        await first("exit 3")
    assert (await first("remember after")).content == ["before", "after"]
    assert (await second("remember after")).content == ["after"]
    assert await pid_of(first) == await pid_of(second) != pid


@pytest.mark.usefixtures("soon")
async def test_D13_it_is_started_again_without_being_asked(rt):
    agent = Inhabitant("a").to_dist()
    pid = await pid_of(agent)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: children() not in ({pid}, set()))


@pytest.mark.usefixtures("soon")
async def test_D13_a_process_that_ends_again_and_again_is_given_up(rt):
    agent = Inhabitant("a").to_dist()
    for _ in range(6):
        with pytest.raises(NodeDown) as caught:
            await agent("exit 3")
        assert caught.value.reason in ("exited", "refused")  # its port may be found closed first
    with pytest.raises(NodeDown) as caught:
        await agent("pid")
    assert (caught.value.reason, caught.value.outcome) == ("restart_limit", "not_delivered")
    assert "exit code 3" in str(caught.value.__cause__)
    await until(lambda: children() == set())


@pytest.mark.usefixtures("soon")
async def test_D13_a_watch_hears_of_a_process_that_is_killed(rt):
    agent = Inhabitant("a").to_dist()
    pid = await pid_of(agent)
    watch = rt.watch(agent)
    await agent("pid")  # behind the watch
    os.kill(pid, signal.SIGKILL)
    assert (await watch).reason == "node_down"


@pytest.mark.usefixtures("soon")
async def test_a_module_that_cannot_be_imported_is_an_error_that_says_so(rt, tmp_path, monkeypatch):
    module = tmp_path / "picky_module.py"
    module.write_text(
        f"import os\nfrom agentscope_async import AgentBase\n"
        f"if os.getpid() != {os.getpid()}:\n    raise ValueError('not in this process')\n"
        f"class Moody(AgentBase):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from picky_module import Moody  # type: ignore[import-not-found]

    agent = Moody("m").to_dist()
    for _ in range(5):
        with pytest.raises(ConfigError, match="ValueError: not in this process") as caught:
            await agent("hi")
        assert "picky_module.py" in caught.value.__notes__[0]
    with pytest.raises(ConfigError):
        await agent("hi")
    with pytest.raises(NodeDown) as given_up:  # not tried for ever
        await agent("hi")
    assert given_up.value.reason == "restart_limit"


async def test_a_process_that_ends_at_once_is_an_error_with_its_exit_code(rt, tmp_path, monkeypatch):
    module = tmp_path / "ending_module.py"
    module.write_text(
        f"import os\nfrom agentscope_async import AgentBase\n"
        f"if os.getpid() != {os.getpid()}:\n    os._exit(7)\n"
        f"class Ending(AgentBase):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from ending_module import Ending  # type: ignore[import-not-found]

    with pytest.raises(ConfigError, match="exit code 7"):
        await Ending("e").to_dist()("hi")


# -- D05: an end to it --


async def test_D05_leaving_the_runtime_ends_every_process():
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        async with Runtime():
            agents = [Inhabitant(str(number)).to_dist() for number in range(3)]
            pids = await asyncio.gather(*(pid_of(agent) for agent in agents))
        assert not any(is_running(pid) for pid in pids)
        with pytest.raises(RuntimeClosedError):
            await agents[0]("pid")


async def test_D05_leaving_by_an_error_ends_a_busy_process(tmp_path):
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        with pytest.raises(KeyError):
            async with Runtime():
                agent = Inhabitant("a").to_dist()
                asking = asyncio.create_task(agent(f"block {tmp_path / 'blocked'}"))
                await until((tmp_path / "blocked").exists)
                raise KeyError
        with pytest.raises(NodeDown):
            await asking


async def test_D05_stopping_an_agent_ends_its_process(rt):
    agent = Inhabitant("a").to_dist()
    pid = await pid_of(agent)
    await agent.stop()
    await until(lambda: not children())
    assert not is_running(pid)
    with pytest.raises((AgentStoppedError, NodeDown)):
        await agent("pid")


async def test_D05_a_process_goes_on_while_it_has_another_agent(rt):
    first = Inhabitant("a").to_dist()
    second = Inhabitant("b").to_dist(beside=first)
    pid = await pid_of(first)
    await second("pid")
    await first.stop()
    third = Inhabitant("c").to_dist(beside=second)  # there would be no more room in one that is ending
    assert await pid_of(third) == await pid_of(second) == pid
    await second.stop()
    await third.stop()
    await until(lambda: not is_running(pid))


async def test_D05_stopping_an_agent_that_was_never_used_starts_nothing(rt):
    agent = Inhabitant("a").to_dist()
    await agent.stop()
    assert children() == set()
    with pytest.raises(AgentStoppedError):
        await agent("pid")


async def test_D05_a_process_whose_agent_nobody_has_any_more_is_ended(rt):
    agent = Inhabitant("a").to_dist()
    pid = await pid_of(agent)
    del agent
    gc.collect()
    await until(lambda: not is_running(pid))
    await until(lambda: not rt.node.children)


async def test_D05_an_answer_that_is_awaited_keeps_the_process(rt):
    reply = Inhabitant("a").to_dist().submit("pid")
    gc.collect()
    assert (await reply).content != os.getpid()


async def test_D05_a_letter_that_was_posted_is_handled_although_nobody_has_the_agent(rt, tmp_path):
    await Inhabitant("a").to_dist().post(f"finish {tmp_path / 'it'}")
    gc.collect()
    (tmp_path / "it.go").touch()
    await until((tmp_path / "it.done").exists)


async def test_D05_cancelling_the_first_ask_leaves_a_process_that_ends_with_the_runtime(rt):
    agent = Inhabitant("a").to_dist()
    asking = asyncio.create_task(agent("pid"))
    await until(children)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert (await agent("note")).content == ""


async def test_D05_leaving_while_a_process_starts_leaves_none():
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        async with Runtime():
            agent = Inhabitant("a").to_dist(lazy_launch=False)
            await until(children)
        with pytest.raises(RuntimeClosedError):
            await agent("pid")


async def test_D05_a_process_that_starts_is_gone_for_all_who_end_it_at_the_same_time(rt):
    agent = Inhabitant("a").to_dist(lazy_launch=False)
    await until(children)
    endings = [asyncio.create_task(agent.locator.child.aclose()) for _ in range(3)]
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    assert children() == set()
    await asyncio.wait(endings)


@pytest.mark.parametrize("ends", ["politely", "killed"])
async def test_D05_children_of_a_child_end_with_it(rt, ends):
    agent = Inhabitant("a").to_dist()
    pid, grandchild = await pid_of(agent), (await agent("launch")).content
    assert is_running(grandchild)
    if ends == "killed":
        os.kill(pid, signal.SIGKILL)
    else:
        await agent.stop()
    await until(lambda: not is_running(grandchild))


async def test_D05_what_was_begun_is_finished_when_the_runtime_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(Child.aclose, "__defaults__", (0.0,))  # what is not finished by then is not at all
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        async with Runtime(grace=PATIENCE_S):
            agent = Inhabitant("a").to_dist()
            await agent.post(f"finish {tmp_path / 'it'}")
            await until((tmp_path / "it.begun").exists)
            asyncio.get_running_loop().call_later(0.05, (tmp_path / "it.go").touch)
        assert (tmp_path / "it.done").exists()


# -- the process itself --


BOOTSTRAP = {
    "node": "child",
    "parent": "parent",
    "token": "a-token-for-these-tests-only-0123",
    "family_token": "another-token-for-these-tests-only",
    "host": "127.0.0.1",
    "port": 0,
    "replies": {"kept_replies": 10, "kept_reply_s": 10.0},
    "settings": None,
    "budget": None,
    "runtime": {"model_configs": [], "grace": 30.0},
}


@asynccontextmanager
async def child(**changed: Any) -> AsyncIterator[ChildProcess]:
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        process = await ChildProcess.start({**BOOTSTRAP, **changed}, [Inhabitant])
        try:
            yield process
        finally:
            await process.aclose(0.0)


@asynccontextmanager
async def inhabited(process: ChildProcess) -> AsyncIterator[Any]:
    """Open a runtime, and in the child an agent of it."""
    async with Runtime(token=str(BOOTSTRAP["token"]), node="parent") as runtime:
        yield await runtime.spawn(process.url, "Inhabitant", {"name": "a"})


async def test_a_child_ends_politely_when_it_is_told_to():
    async with child() as process:
        os.kill(process.pid, signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_sibling_is_let_in_but_not_as_the_parent():
    async with child() as process:
        family = str(BOOTSTRAP["family_token"])
        async with Runtime(token=family, node="sibling") as sibling:
            with pytest.raises(ForbiddenError):
                await sibling.spawn(process.url, "Inhabitant", {"name": "a"})
        async with Runtime(token=family, node="parent") as impostor:
            with pytest.raises(NodeDown):
                await impostor.spawn(process.url, "Inhabitant", {"name": "a"})
        async with Runtime(token="a-token-nobody-was-ever-given-0123", node="parent") as stranger:
            with pytest.raises(NodeDown):
                await stranger.spawn(process.url, "Inhabitant", {"name": "a"})


async def test_a_child_leaves_ctrl_c_to_its_parent():
    async with child() as process, inhabited(process) as agent:
        os.kill(process.pid, signal.SIGINT)
        assert (await agent("facts")).content["sigint"] is True


async def test_R18_a_child_told_to_end_finishes_what_is_under_way(tmp_path):
    async with child() as process, inhabited(process) as agent:
        asking = asyncio.create_task(agent(f"finish {tmp_path / 'it'}"))
        await until((tmp_path / "it.begun").exists)
        os.kill(process.pid, signal.SIGTERM)
        (tmp_path / "it.go").touch()
        assert (await asking).content == "finished"
        assert await process.wait() == 0


@pytest.mark.parametrize("order", ["hold", "block"])
async def test_R18_a_child_told_twice_does_not_finish_it(tmp_path, order):
    async with child() as process, inhabited(process) as agent:
        asking = asyncio.create_task(agent(f"{order} {tmp_path / 'it'}"))
        await until((tmp_path / "it").exists)
        os.kill(process.pid, signal.SIGTERM)
        await asyncio.sleep(0.05)  # two signals at the same moment may be one
        os.kill(process.pid, signal.SIGTERM)
        assert await process.wait() == 1
        with pytest.raises((NodeDown, asyncio.CancelledError)):
            await asking


async def test_closing_a_child_again_lets_it_finish_all_the_same(tmp_path):
    async with child() as process, inhabited(process) as agent:
        asking = asyncio.create_task(agent(f"finish {tmp_path / 'it'}"))
        await until((tmp_path / "it.begun").exists)
        closings = []
        for _ in range(3):
            closings.append(asyncio.create_task(process.aclose(PATIENCE_S)))
            await asyncio.sleep(0.05)  # signals at the same moment may be one
        (tmp_path / "it.go").touch()
        await asyncio.gather(*closings)
        assert ((await asking).content, process.exit_code) == ("finished", 0)
        await process.aclose()


async def test_closing_a_child_kills_it_when_the_grace_is_over(tmp_path):
    async with child() as process, inhabited(process) as agent:
        asking = asyncio.create_task(agent(f"block {tmp_path / 'it'}"))
        await until((tmp_path / "it").exists)
        await process.aclose(0.05)
        assert process.exit_code == -signal.SIGKILL
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), NodeDown)


async def test_cancelling_the_closing_of_a_child_kills_it(tmp_path):
    async with child() as process, inhabited(process) as agent:
        asking = asyncio.create_task(agent(f"finish {tmp_path / 'it'}"))
        await until((tmp_path / "it.begun").exists)
        closing = asyncio.create_task(process.aclose(30.0))
        await asyncio.sleep(0.05)  # in which the child is told, and waits for its agent
        closing.cancel()
        await asyncio.wait([closing])
        assert await process.wait() == -signal.SIGKILL
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), NodeDown)


async def test_cancelling_the_start_of_a_child_leaves_no_process():
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        for _ in range(5):
            starting = asyncio.create_task(ChildProcess.start(BOOTSTRAP, [Inhabitant]))
            await until(children)
            starting.cancel()
            await asyncio.wait([starting])
            assert starting.cancelled()


async def test_a_child_leaves_no_descriptor_open():
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with child():
        pass
    before = descriptors()
    for _ in range(3):
        async with child():
            pass
    await until(lambda: descriptors() <= before)


async def test_what_is_wrong_with_the_settings_is_told_to_the_parent():
    async with nobody_left(), asyncio.timeout(PATIENCE_S):
        wrong = {**BOOTSTRAP, "runtime": {"model_configs": [], "grace": -1}}
        with pytest.raises(ConfigError, match=r"could not start: ConfigError: grace"):
            await ChildProcess.start(wrong, [Inhabitant])


# -- whole programs --


def program(folder: Path, text: str, name: str = "main.py") -> list[str]:
    """Write a program with our agents at hand; return the command that runs it."""
    script = folder / name
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        f"import asyncio, os, signal, time\n"
        f"from agentscope_async import *\n"
        f"from node.inhabitants import Inhabitant\n{text}"
    )
    return [sys.executable, str(script)]


async def output_of(command: list[str], folder: Path, **options: Any) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await process.communicate()
    return output.decode()


ORPHANS = """
async def main():
    async with Runtime():
        agents = [Inhabitant(str(number)).to_dist() for number in range(2)]
        pids = [(await agent("pid")).content for agent in agents]
        asking = asyncio.gather(agents[1]("block {blocked}"), return_exceptions=True)
        while not os.path.exists("{blocked}"):
            await asyncio.sleep(0.01)
        print(*pids, flush=True)
        {then}
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "then",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os._exit(0)",
        "os.fork() or time.sleep(3)\n        os._exit(0)",
    ],
    ids=["killed", "exited", "killed while a fork of it lives on"],
)
async def test_D05_children_end_with_their_parent_however_it_ends(tmp_path, then):
    text = ORPHANS.format(blocked=tmp_path / "blocked", then=then)
    pids = [int(each) for each in (await output_of(program(tmp_path, text), tmp_path)).split()]
    assert len(pids) == 2
    await until(lambda: not any(is_running(pid) for pid in pids))


async def test_D05_ctrl_c_in_the_terminal_ends_a_program_and_its_children_quietly(tmp_path):
    text = ORPHANS.format(blocked=tmp_path / "blocked", then="os.killpg(0, signal.SIGINT)")
    text = text.replace("asyncio.run(main())", "try: asyncio.run(main())\nexcept KeyboardInterrupt: pass")
    output = await output_of(program(tmp_path, text), tmp_path, start_new_session=True)
    assert "Traceback" not in output
    pids = [int(each) for each in output.splitlines()[0].split()]
    await until(lambda: not any(is_running(pid) for pid in pids))


async def test_the_script_of_the_parent_is_not_run_again_by_its_children(tmp_path):
    text = """
print("loaded", flush=True)
async def main():
    async with Runtime():
        print((await Inhabitant("a").to_dist()("note")).content or "answered", flush=True)
asyncio.run(main())
"""
    assert (await output_of(program(tmp_path, text), tmp_path)).split() == ["loaded", "answered"]


async def test_a_class_of_the_script_is_refused_with_what_to_do(tmp_path):
    text = """
class Mine(AgentBase):
    pass
async def main():
    async with Runtime():
        try:
            Mine("m").to_dist()
        except ConfigError as error:
            print(error)
asyncio.run(main())
"""
    assert "Move the class into a module of its own" in await output_of(program(tmp_path, text), tmp_path)


async def test_N06_what_a_launched_agent_says_is_shown_and_logged_once(tmp_path):
    text = """
init(save_dir="runs", save_code=False)
async def main():
    async with Runtime():
        agent = Inhabitant("Ann").to_dist()
        await agent("say The weather is fine.")
asyncio.run(main())
"""
    output = await output_of(program(tmp_path, text), tmp_path)
    assert output.count("The weather is fine.") == 1, output
    (log,) = tmp_path.glob("runs/*/logging.chat")
    assert log.read_text().count("The weather is fine.") == 1
