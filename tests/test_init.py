"""What ``init()`` sets up, and the services of runtimes."""

from __future__ import annotations

import asyncio
import json
import logging as stdlib
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from agentscope_async import (
    AgentBase,
    ConfigError,
    DialogAgent,
    EchoModel,
    Msg,
    Runtime,
    UserAgent,
    _context,
    _init,
    init,
    init_process,
    logging as chat_logging,
    process_settings,
)
from agentscope_async._context import find_services
from agentscope_async.monitor import Budget

ECHO = {"config_name": "talk", "model_type": "fake_echo"}


class Parrot(AgentBase):
    """Answers with what it was told."""

    def __init__(self, name="parrot", word=""):
        super().__init__(name)
        self.word = word

    async def reply(self, x=None):
        await self.speak(answer := Msg(self.name, self.word or x.text, "assistant"))
        return answer


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


@pytest.fixture(autouse=True)
def clean_process(monkeypatch, tmp_path):
    """What ``init`` changes in the process is undone; the current directory is an empty one."""
    monkeypatch.setattr(_context, "process_services", None)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    logger = stdlib.getLogger("agentscope_async")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    chat_logging._default_chat.use(None)


@pytest.fixture
async def services(tmp_path):
    """The services after an ``init`` into ``tmp_path / "runs"``."""
    init(save_dir=tmp_path / "runs")
    services = find_services()
    yield services
    await services.aclose()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


async def call_a_model(number=1.0):
    """Report a call as model wrappers do."""
    services = find_services()
    if services is None:
        return
    services.monitor.count({"calls": number}, "echo")
    if services.invocations is not None:
        services.invocations.record("EchoModel", {"api_key": "T0p5ecret"}, {"text": "hi"})
    await services.monitor.flush()
    if services.invocations is not None:
        await services.invocations.flush()


# -- init --


def test_a01_init_without_arguments_returns_nothing_and_makes_a_run_directory(tmp_path):
    assert init() == []
    [run] = (tmp_path / "cwd" / "runs").iterdir()
    assert names_in(run) == [".config", "logging.chat", "logging.log"]


@pytest.mark.parametrize("form", ["object", "list", "file with an object", "file with a list"])
def test_a02_model_configs_are_taken_in_every_form(tmp_path, form):
    configs = ECHO if "object" in form else [ECHO, {**ECHO, "config_name": "other"}]
    if "file" in form:
        (tmp_path / "models.json").write_text(json.dumps(configs))
        configs = str(tmp_path / "models.json")
    init(model_configs=configs)
    assert isinstance(DialogAgent("a", model="talk").model, EchoModel)
    if "list" in form:
        assert DialogAgent("a", model="other").model.config_name == "other"


AGENTS = [
    {"class": "DialogAgent", "args": {"name": "ann", "sys_prompt": "You are Ann.", "model": "talk"}},
    {"class": "UserAgent", "args": {"name": "bob"}},
]


@pytest.mark.parametrize("form", ["list", "file", "object"])
def test_a03_agent_configs_build_agents_in_order(tmp_path, form):
    configs = AGENTS[0] if form == "object" else AGENTS
    if form == "file":
        (tmp_path / "agents.json").write_text(json.dumps(AGENTS))
        configs = str(tmp_path / "agents.json")
    agents = init(model_configs=ECHO, agent_configs=configs)
    assert [type(agent) for agent in agents] == [DialogAgent, UserAgent][: len(agents)]
    assert [agent.name for agent in agents] == ["ann", "bob"][: len(agents)]
    assert len(agents) == (1 if form == "object" else 2)


async def test_a03_an_agent_class_of_the_users_own_is_given_itself():
    [agent] = init(agent_configs={"class": Parrot, "args": {"word": "ahoy"}})
    assert (await agent("x")).text == "ahoy"


@pytest.mark.parametrize(
    "given", [f"{__name__}.Parrot", "Parrot", "os.system", dict, object, AgentBase.__mro__[-1], 3]
)
def test_a03_no_class_is_found_by_a_foreign_name(given):
    with pytest.raises(ConfigError, match="not an agent"):
        init(agent_configs={"class": given, "args": {}})


def test_a04_project_and_name_are_recorded(tmp_path):
    init(project="tea", name="first", save_dir=tmp_path / "runs")
    [run] = (tmp_path / "runs").iterdir()
    about = json.loads((run / ".config").read_text())
    assert (about["project"], about["name"], about["id"]) == ("tea", "first", run.name)


async def test_a05_everything_is_inside_the_save_dir(tmp_path):
    (tmp_path / "cwd" / "program.py").write_text("print(1)")
    [agent] = init(
        model_configs=ECHO, save_dir=tmp_path / "elsewhere", agent_configs={"class": Parrot, "args": {}}
    )
    await agent("hello")
    await call_a_model()
    await find_services().files.save_image(b"GIF89a", "a.gif")
    assert names_in(tmp_path / "cwd") == ["program.py"]
    [run] = (tmp_path / "elsewhere").iterdir()
    assert {".config", "agentscope.db", "logging.log", "logging.chat", "code", "invoke", "file"} <= set(
        names_in(run)
    )
    assert names_in(run / "code") == ["program.py"]
    assert names_in(run / "file") == ["a.gif"]
    [record] = (run / "invoke").iterdir()
    assert "T0p5ecret" not in record.read_text()
    with closing(sqlite3.connect(run / "agentscope.db")) as database:
        assert database.execute("select count(*) from monitor_metrics").fetchone() == (1,)
    await find_services().aclose()


async def test_a05_the_place_of_a_run_does_not_follow_the_current_directory(tmp_path, monkeypatch):
    init(save_dir="here")
    monkeypatch.chdir(tmp_path)
    await call_a_model()
    assert names_in(tmp_path) == ["cwd"]
    [run] = (tmp_path / "cwd" / "here").iterdir()
    assert {"agentscope.db", "invoke"} <= set(names_in(run))
    await find_services().aclose()


async def test_a06_what_is_switched_off_is_not_written(tmp_path):
    (tmp_path / "cwd" / "program.py").write_text("print(1)")
    init(save_log=False, save_code=False, save_api_invoke=False)
    assert names_in(tmp_path / "cwd") == ["program.py"]
    assert find_services().invocations is None
    await call_a_model()
    [run] = (tmp_path / "cwd" / "runs").iterdir()
    assert {".config", "agentscope.db"} <= set(names_in(run))
    assert not {"logging.log", "logging.chat", "code", "invoke"} & set(names_in(run))
    await find_services().aclose()


def test_a06_the_program_is_copied_but_no_other_files(tmp_path):
    cwd = tmp_path / "cwd"
    (cwd / "a.py").write_text("a = 1")
    (cwd / "b.py").write_text("b = 2")
    (cwd / "notes.txt").write_text("no")
    (cwd / "package").mkdir()
    (cwd / "package" / "c.py").write_text("c = 3")
    (cwd / "folder.py").mkdir()
    (cwd / "broken.py").symlink_to("nowhere.py")
    init(save_dir=tmp_path / "runs")
    [run] = (tmp_path / "runs").iterdir()
    assert names_in(run / "code") == ["a.py", "b.py"]
    assert (run / "code" / "a.py").read_text() == "a = 1"
    assert (run / "logging.log").read_text() == ""


async def test_a06_there_is_one_record_for_each_call(services):
    await asyncio.gather(*(call_a_model() for _ in range(20)))
    assert len(names_in(services.files.dir_invoke)) == 20


def test_a07_the_level_decides_what_is_logged(tmp_path):
    for level, expected in (("INFO", ["news"]), ("DEBUG", ["detail", "news"]), ("ERROR", [])):
        init(save_dir=tmp_path / level, logger_level=level)
        chat_logging.get_logger().debug("detail")
        chat_logging.get_logger().info("news")
        [run] = (tmp_path / level).iterdir()
        logged = (run / "logging.log").read_text()
        assert [word for word in ("detail", "news") if word in logged] == expected
    with pytest.raises(ConfigError, match="LOUD"):
        init(logger_level="LOUD")


async def test_a08_after_a_second_init_each_line_is_logged_once_and_in_the_second_run(tmp_path, capsys):
    init(save_dir=tmp_path / "one")
    [agent] = init(save_dir=tmp_path / "two", agent_configs={"class": Parrot, "args": {}})
    await agent("hello")
    chat_logging.get_logger().warning("careful")
    shown = capsys.readouterr()
    assert shown.out.count("hello") == 1
    assert shown.err.count("careful") == 1
    [first], [second] = (tmp_path / "one").iterdir(), (tmp_path / "two").iterdir()
    assert (second / "logging.log").read_text().count("careful") == 1
    assert len((second / "logging.chat").read_text().splitlines()) == 1
    assert (first / "logging.log").read_text() == (first / "logging.chat").read_text() == ""


async def test_a08_a_second_init_moves_metrics_and_records_too(tmp_path):
    init(save_dir=tmp_path / "one")
    await call_a_model(1)
    former = find_services()
    init(save_dir=tmp_path / "two")
    await call_a_model(2)
    assert await former.monitor.get_value("echo.calls") == 1
    assert await find_services().monitor.get_value("echo.calls") == 2
    for folder in ("one", "two"):
        [run] = (tmp_path / folder).iterdir()
        assert len(names_in(run / "invoke")) == 1
    for services in (former, find_services()):
        await services.aclose()


def test_a08_a_second_init_adds_its_models_and_replaces_those_of_the_same_name(tmp_path):
    init([ECHO, {**ECHO, "config_name": "other"}], save_dir=tmp_path)
    former = DialogAgent("a", model="talk").model
    init([{**ECHO, "delay_s": 3}, {**ECHO, "config_name": "new"}], save_dir=tmp_path)
    assert DialogAgent("a", model="talk").model.delay_s == 3
    assert former.delay_s == 0
    assert {DialogAgent("a", model=name).model.config_name for name in ("other", "new")} == {"other", "new"}
    assert len(process_settings()["model_configs"]) == 3


async def test_a08_what_falls_back_on_a_replaced_model_falls_back_on_its_successor(tmp_path):
    answers = {"config_name": "talk", "model_type": "fake_scripted"}
    both = {"config_name": "both", "model_type": "FallbackModel", "models": ["talk"]}
    init([{**answers, "answers": ["old"]}, both], save_dir=tmp_path)
    DialogAgent("a", model="both")
    init({**answers, "answers": ["new"]}, save_dir=tmp_path)
    assert (await DialogAgent("a", model="both")("x")).text == "new"


def test_what_was_counted_and_recorded_is_written_when_the_program_ends(tmp_path):
    script = """
import asyncio, sys
from agentscope_async import init
from agentscope_async._context import find_services
async def main():
    services = find_services()
    for _ in range(100):
        services.monitor.count({"calls": 1.0}, "echo")
        services.invocations.record("EchoModel", {}, {})
init(save_dir=sys.argv[1])
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [run] = (tmp_path / "runs").iterdir()
    assert len(names_in(run / "invoke")) == 100
    with closing(sqlite3.connect(run / "agentscope.db")) as database:
        found = database.execute("select value from monitor_metrics where name = 'echo.calls'").fetchone()
    assert found == (100.0,)


# -- which services are found --


async def test_without_init_and_runtime_there_are_no_services():
    assert find_services() is None
    await call_a_model()


async def test_services_are_those_of_the_runtime_else_those_of_init(services):
    assert find_services() is services
    async with Runtime() as outer:
        assert find_services() is outer
        async with Runtime() as inner:
            assert find_services() is inner
            assert find_services(outer) is outer
    assert find_services() is services
    assert find_services(outer) is services


async def test_two_runtimes_share_no_metrics_and_no_records(tmp_path):
    async with Runtime(save_dir=tmp_path / "a", save_api_invoke=True) as one, Runtime() as two:
        with one.use():
            await call_a_model(1)
        with two.use():
            await call_a_model(2)
        assert await one.monitor.get_value("echo.calls") == 1
        assert await two.monitor.get_value("echo.calls") == 2
        assert two.invocations is None
    assert len(names_in(one.files.dir_invoke)) == 1
    assert names_in(tmp_path / "cwd") == []


async def test_a_runtime_that_saves_nothing_uses_what_init_set_up(tmp_path, services):
    async with Runtime() as rt:
        await call_a_model(5)
        assert rt.monitor is services.monitor
        assert rt.files is services.files
    assert await services.monitor.get_value("echo.calls") == 5
    assert len(names_in(services.files.dir_invoke)) == 1
    async with Runtime(save_dir=tmp_path / "own") as own:
        await call_a_model(7)
    assert await own.monitor.get_value("echo.calls") == 7
    assert await services.monitor.get_value("echo.calls") == 5
    assert len(names_in(services.files.dir_invoke)) == 1
    await own.monitor.aclose()


async def test_leaving_a_runtime_writes_its_metrics_and_records(tmp_path):
    async with Runtime(save_dir=tmp_path / "runs", save_api_invoke=True) as rt:
        for _ in range(50):
            rt.monitor.count({"calls": 1.0}, "echo")
            rt.invocations.record("EchoModel", {}, {})
    assert len(names_in(rt.files.dir_invoke)) == 50
    with closing(sqlite3.connect(rt.files.path_db)) as database:
        assert database.execute("select value from monitor_metrics").fetchone() == (50.0,)


async def test_the_metrics_of_a_runtime_can_be_read_after_it_was_left(tmp_path):
    for options in ({}, {"save_dir": tmp_path / "runs"}):
        async with Runtime(**options) as rt:
            rt.monitor.count({"calls": 3.0}, "echo")
        assert await rt.monitor.get_value("echo.calls") == 3
        await rt.monitor.aclose()


async def test_the_budget_of_a_runtime_is_its_own(services):
    budget = Budget(calls=3)
    async with Runtime(budget=budget) as rt, Runtime() as other:
        assert rt.budget is budget
        assert other.budget is None
    assert services.budget is None


async def test_a_runtime_that_is_cancelled_writes_its_records_all_the_same(tmp_path):
    entered = asyncio.Event()
    runtimes = []

    async def work():
        async with Runtime(save_dir=tmp_path / "runs", save_api_invoke=True) as rt:
            runtimes.append(rt)
            rt.invocations.record("EchoModel", {}, {})
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(names_in(runtimes[0].files.dir_invoke)) == 1


CHILD = """
import asyncio, json, sys
from agentscope_async import DialogAgent, _context, init_process

init_process(**json.load(sys.stdin))

async def main():
    agent = DialogAgent("child", model="talk")
    reply = await agent("hello")
    services = _context.process_services
    services.monitor.count({"answers": 1}, prefix="child")
    await services.aclose()
    print(json.dumps({"says": reply.text, "run": str(services.files.dir_root)}))

asyncio.run(main())
"""


async def test_a09_settings_reach_another_process_models_run_and_all(tmp_path):
    init([ECHO], project="p", name="n", save_dir=tmp_path / "runs", save_code=False)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await child.communicate(json.dumps(process_settings()).encode())
    said = json.loads(printed.splitlines()[-1])
    files = _context.process_services.files
    assert said == {"says": "user: hello", "run": str(files.dir_root)}
    assert [each.name for each in (tmp_path / "runs").iterdir()] == [files.dir_root.name]
    assert json.loads((files.dir_root / ".config").read_text())["name"] == "n"
    assert await _context.process_services.monitor.get_value("child.answers") == 1.0
    assert "child" in (files.dir_root / "logging.chat").read_text()


def test_a09_a_process_without_settings_says_so(monkeypatch):
    monkeypatch.setattr(_init, "_settings", {})
    with pytest.raises(ConfigError, match="call agentscope_async"):
        process_settings()


@pytest.mark.parametrize("run_id", ["", "../elsewhere", "a/b", ".", "..", "x" * 65, "a\n"])
def test_a09_a_run_id_is_the_name_of_a_directory_and_nothing_else(tmp_path, run_id):
    with pytest.raises(ConfigError, match="run id"):
        init_process(runtime_id=run_id, save_dir=tmp_path)
    assert list(tmp_path.glob("*.*")) == []
