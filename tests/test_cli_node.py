"""``agentscope-async node`` and ``ps`` as they are used: as processes, with clients in others."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from command import call, end, environ, spawn

from agentscope_async import AgentBase, ConnectFailed, Msg, NodeDown, Runtime

END_S = 40.0
"""A guard: so long a process may take to end."""

AGENTS = '''
import asyncio
import os
import time

from agentscope_async import AgentBase, Msg


class Gated(AgentBase):
    """Answers once something is written into the fifo ``gate``."""

    async def reply(self, x=None):
        gate = os.open("gate", os.O_RDWR | os.O_NONBLOCK)
        opened = asyncio.Event()
        asyncio.get_running_loop().add_reader(gate, opened.set)
        try:
            await opened.wait()
        finally:
            asyncio.get_running_loop().remove_reader(gate)
            os.close(gate)
            open("left", "w").close()
        return Msg(self.name, f"done in {os.getpid()}", "assistant")


class Deaf(AgentBase):
    """Keeps the event loop of its node for itself."""

    async def reply(self, x=None):
        print("begun", flush=True)
        time.sleep(3600)
'''


@pytest.fixture
def token(tmp_path):
    """A token; the commands find it in the file ``token``."""
    token = secrets.token_urlsafe(32)
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(token + "\n")
    return token


@pytest.fixture
def classes(tmp_path):
    """The module ``gated`` with classes of agents, and what they need."""
    (tmp_path / "gated.py").write_text(AGENTS)
    os.mkfifo(tmp_path / "gate")


@contextmanager
def node(cwd, *args, **more):
    """Run a node at a free port; gives the process and the URL once it can be used."""
    listen = [] if "--listen" in args else ["--listen", "ws://127.0.0.1:0"]
    command = [sys.executable, "-m", "agentscope_async", "node", *listen, *args]
    with (cwd / "node.err").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=environ(**more), stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
        )
    with process:
        try:
            line = process.stdout.readline()
            assert re.fullmatch(r"node \S+ listens at wss?://127\.0\.0\.1:[1-9]\d*\n", line), errors_of(cwd)
            yield process, line.split()[-1]
        finally:
            process.kill()


def errors_of(cwd: Path) -> str:
    return (cwd / "node.err").read_text()


async def until_busy(runtime, url, token):
    while not any(agent.is_busy for agent in (await runtime.ps(url, token=token)).agents):
        pass


# -- a node from the shell --


async def test_d03_node_started_separately_is_used_by_host_and_port(tmp_path):
    with node(tmp_path, "--agent", "ann=fake:echo") as (process, url):
        async with Runtime() as runtime:
            reply = await runtime.agent(f"{url}/ann")("hello")
        assert (reply.name, reply.text) == ("ann", "user: hello")
        process.terminate()
        assert process.wait(END_S) == 0
    assert errors_of(tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["node.err"]


async def test_d03_node_creates_agents_of_the_classes_it_allows(tmp_path, token):
    args = ["--allow", "DialogAgent", "--token-file", "token", "--name", "house"]
    with node(tmp_path, *args) as (_, url):
        async with Runtime() as runtime:
            bob = await runtime.spawn(url, "DialogAgent", {"name": "Bob", "model": "fake:echo"}, token=token)
            assert (await bob("hello")).name == "Bob"
            with pytest.raises(PermissionError, match="DictDialogAgent"):
                await runtime.spawn(
                    url, "DictDialogAgent", {"name": "Bob", "model": "fake:echo"}, token=token
                )
            assert (await runtime.ps(url, token=token)).node == "house"


async def test_d03_node_knows_its_model_configurations(tmp_path, token):
    (tmp_path / "models.json").write_text(
        '{"config_name": "said", "model_type": "fake_scripted", "answers": ["prepared"]}'
    )
    args = ["--allow", "DialogAgent", "--token-file", "token", "--model-configs", "models.json"]
    with node(tmp_path, *args) as (_, url):
        async with Runtime(token=token) as runtime:
            bob = await runtime.spawn(url, "DialogAgent", {"name": "Bob", "model": "said"})
            assert (await bob("hello")).text == "prepared"


async def test_d03_human_agent_on_a_node_reads_the_terminal_of_the_node(tmp_path, token):
    args = ["--listen", "ws://127.0.0.1:0", "--allow", "UserAgent", "--token-file", "token"]
    terminal = spawn(tmp_path, "node", *args)
    await asyncio.to_thread(terminal.expect, r"listens at (ws://127\.0\.0\.1:\d+)")
    url = terminal.match[1]
    await asyncio.to_thread(terminal.expect, "may be created from elsewhere: UserAgent")
    async with Runtime(token=token) as runtime:
        eve = await runtime.spawn(url, "UserAgent", {"name": "Eve"})
        asking = asyncio.ensure_future(eve("What is the time?"))
        await asyncio.to_thread(terminal.expect, "User input: ")
        terminal.sendline("noon")
        assert (await asking).text == "noon"
    terminal.sendintr()
    await asyncio.to_thread(end, terminal, 130)


async def test_class_of_a_module_in_the_working_directory_can_be_allowed(tmp_path, token, classes):
    with node(tmp_path, "--allow", "gated:Gated", "--token-file", "token") as (process, url):
        async with Runtime(token=token) as runtime:
            agent = await runtime.spawn(url, "Gated", {"name": "Gus"})
            asking = asyncio.ensure_future(agent("hello"))
            await until_busy(runtime, url, token)
            (tmp_path / "gate").write_text("x")
            assert (await asking).text == f"done in {process.pid}"


def test_node_with_a_certificate_is_asked_by_who_trusts_it(tmp_path, token):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    args = ["--listen", "wss://127.0.0.1:0", "--tls-cert", "node.pem", "--token-file", "token"]
    with node(tmp_path, *args) as (_, url):
        asked = ["ps", url, "--token-file", "token"]
        out, _ = call(tmp_path, *asked, "--tls-ca", "ca.pem")
        assert out.endswith(": 0 agents\n")
        _, err = call(tmp_path, *asked, code=1)
        assert re.fullmatch(rf"error: .*{url}.*--tls-ca FILE.*\n", err)


# -- how it ends --


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_idle_node_that_is_told_to_stop_is_gone(tmp_path, number, code):
    with node(tmp_path, "--agent", "ann=fake:echo") as (process, url):
        process.send_signal(number)
        assert process.wait(END_S) == code
        assert process.stdout.read() == ""
    assert errors_of(tmp_path) == ""
    async with Runtime() as runtime:
        with pytest.raises(ConnectFailed):
            await runtime.ps(url)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_node_that_is_told_to_stop_finishes_what_is_under_way(tmp_path, token, classes, number, code):
    args = ["--allow", "gated:Gated", "--token-file", "token", "--grace", "3600"]
    with node(tmp_path, *args) as (process, url):
        async with Runtime(token=token) as runtime:
            agent = await runtime.spawn(url, "Gated", {"name": "Gus"})
            asking = asyncio.ensure_future(agent("hello"))
            await until_busy(runtime, url, token)
            process.send_signal(number)
            await until_draining(runtime, url)
            (tmp_path / "gate").write_text("x")
            assert (await asking).text.startswith("done")
        assert process.wait(END_S) == code


async def until_draining(runtime, url):
    """Wait until the node takes no new work."""
    while True:
        try:
            await runtime.ps(url)
        except NodeDown as error:
            assert error.reason == "draining"
            return


async def test_node_waits_for_the_grace_only(tmp_path, token, classes):
    args = ["--allow", "gated:Gated", "--token-file", "token", "--grace", "0.1"]
    with node(tmp_path, *args) as (process, url):
        async with Runtime(token=token) as runtime:
            agent = await runtime.spawn(url, "Gated", {"name": "Gus"})
            asking = asyncio.ensure_future(agent("hello"))
            await until_busy(runtime, url, token)
            process.terminate()
            with pytest.raises(NodeDown):
                async with asyncio.timeout(8):  # the default would be 10
                    await asking
        assert process.wait(END_S) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
async def test_second_order_to_stop_does_not_wait_for_what_is_under_way(
    tmp_path, token, classes, number, code
):
    args = ["--listen", "ws://127.0.0.1:0", "--allow", "gated:Gated", "--token-file", "token"]
    terminal = spawn(tmp_path, "node", *args, "--grace", "3600")
    await asyncio.to_thread(terminal.expect, r"listens at (ws://127\.0\.0\.1:\d+)")
    url = terminal.match[1]
    async with Runtime(token=token) as runtime:
        agent = await runtime.spawn(url, "Gated", {"name": "Gus"})
        asking = asyncio.ensure_future(agent("hello"))
        await until_busy(runtime, url, token)
        terminal.kill(number)
        await asyncio.to_thread(terminal.expect, "stopping")
        terminal.kill(number)
        await asyncio.to_thread(end, terminal, code)
        with pytest.raises(NodeDown):
            await asking
    assert (tmp_path / "left").exists()  # it could clean up


async def test_second_order_to_stop_ends_even_a_node_whose_event_loop_is_stuck(tmp_path, token, classes):
    args = ["--allow", "gated:Deaf", "--token-file", "token", "--grace", "3600"]
    with node(tmp_path, *args) as (process, url):
        async with Runtime(token=token) as runtime:
            agent = await runtime.spawn(url, "Deaf", {"name": "Dan"})
            await agent.post("hello")
            assert await asyncio.to_thread(process.stdout.readline) == "begun\n"
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, END_S) == 130


# -- what is refused --


@pytest.mark.parametrize(
    "args",
    [
        ["--listen", "nonsense"],
        ["--listen", "http://127.0.0.1:0"],
        ["--listen", "ws://127.0.0.1:99999"],
        ["--listen", "wss://127.0.0.1:0", "--token-file", "token"],
        ["--listen", "wss://127.0.0.1:0", "--token-file", "token", "--tls-cert", "gated.py"],
        ["--token-file", "token", "--tls-cert", "gated.py"],
        ["--token-file", "token", "--tls-key", "gated.py"],
        ["--name", "two words"],
        ["--grace", "-1"],
        ["--peer", "other"],
        ["--agent", "ann"],
        ["--agent", "ann=nonsense"],
        ["--agent", "_ann=fake:echo"],
        ["--agent", "a b=fake:echo"],
        ["--allow", "Nonsense", "--token-file", "token"],
        ["--allow", "nonsense:Agent", "--token-file", "token"],
        ["--allow", "os:getcwd", "--token-file", "token"],
        ["--allow", "gated:Nonsense", "--token-file", "token"],
        ["--token-file", "no-such-file"],
        ["--token-file", "."],
        ["--model-configs", "no-such-file.json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_of_node_exits_with_2(tmp_path, token, classes, args):
    out, err = call(tmp_path, "node", *args, code=2)
    assert out == ""
    assert re.fullmatch(r"error: .*\n", err) or err.startswith("Usage: ")
    assert token not in err


@pytest.mark.parametrize(
    "args", [["--allow", "DialogAgent"], ["--listen", "ws://0.0.0.0:0"], ["--listen", "ws://[::]:0"]]
)
def test_node_that_would_serve_strangers_is_refused_with_the_way_to_make_a_token(tmp_path, args):
    out, err = call(tmp_path, "node", *args, code=2)
    assert out == ""
    assert re.fullmatch(r"error: .*\n", err)
    assert "secrets.token_urlsafe(32)" in err
    assert "--token-file" in err


def test_the_advice_how_to_make_a_token_is_good(tmp_path):
    _, err = call(tmp_path, "node", "--allow", "DialogAgent", code=2)
    line = re.search(r"Make one: (\(.*\)), then", err)[1].replace("python", sys.executable, 1)
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "node.token").stat().st_mode & 0o077 == 0
    with node(tmp_path, "--allow", "DialogAgent", "--token-file", "node.token"):
        assert errors_of(tmp_path) == ""


def test_token_that_can_be_guessed_is_refused_and_not_shown(tmp_path):
    (tmp_path / "token").write_text("hunter2hunter2hunter2")
    _, err = call(tmp_path, "node", "--token-file", "token", code=2)
    assert "hunter2" not in err


def test_token_file_that_others_can_read_is_warned_about(tmp_path, token):
    (tmp_path / "token").chmod(0o644)
    with node(tmp_path, "--token-file", "token"):
        assert errors_of(tmp_path).startswith("warning: ")
        assert "chmod 600 token" in errors_of(tmp_path)


def test_port_that_is_taken_is_told_in_a_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        out, err = call(tmp_path, "node", "--listen", url, code=1)
    assert out == ""
    assert err == f"error: Cannot listen at {url}: Address already in use.\n"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_token_is_nowhere_to_be_seen(tmp_path, token):
    with node(tmp_path, "--allow", "DialogAgent", "--token-file", "token") as (process, url):
        (tmp_path / "other").write_text(other := secrets.token_urlsafe(32))
        shown = [*call(tmp_path, "ps", url, "--token-file", "token")]
        shown += call(tmp_path, "ps", url, "--token-file", "other", code=1)
        for part in ("cmdline", "environ"):
            shown.append(Path(f"/proc/{process.pid}/{part}").read_text())
        process.terminate()
        shown += [process.stdout.read(), errors_of(tmp_path)]
    assert not [text for text in shown if token in text or other in text]


# -- ps --


class Asker(AgentBase):
    """Asks another agent."""

    other: AgentBase

    async def reply(self, x=None):
        return await self.other(x)


class Slow(AgentBase):
    """Says when it begins, and answers when it may."""

    def __init__(self, name):
        super().__init__(name)
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def reply(self, x=None):
        self.begun.set()
        await self.may_end.wait()
        return Msg(self.name, "done", "assistant")


async def test_ps_shows_what_the_agents_do_and_who_waits_on_whom(tmp_path):
    ann, bob = Asker("Ann"), Slow("Bob")
    ann.other = bob
    async with Runtime(listen="ws://127.0.0.1:0", node="house", exports={"ann": ann, "b.2": bob}) as runtime:
        await bob.post("this first")
        await bob.begun.wait()
        asking = ann.submit("hello")
        while not bob.mailbox.statistics().waiting:
            await asyncio.sleep(0)
        out, err = await asyncio.to_thread(call, tmp_path, "ps", runtime.url)
        assert out.splitlines() == [
            "node house: 2 agents",
            "KEY  NAME  CLASS  BUSY  WAITING  HANDLED  FAILED",
            "ann  Ann   Asker  yes         0        0       0",
            "b.2  Bob   Slow   yes         1        0       0",
            "Ann waits on Bob",
        ]
        assert err == ""
        bob.may_end.set()
        await asking
        await runtime.drain()
        out, _ = await asyncio.to_thread(call, tmp_path, "ps", runtime.url)
    assert [line.split()[3:] for line in out.splitlines()[2:]] == [
        ["no", "0", "1", "0"],
        ["no", "0", "2", "0"],
    ]


async def test_ps_shows_names_as_they_are_in_one_line_each(tmp_path):
    agent = Slow("[red]{x} \u00e9 " + "long" * 40)
    async with Runtime(listen="ws://127.0.0.1:0", exports={"a": agent}) as runtime:
        out, _ = await asyncio.to_thread(call, tmp_path, "ps", runtime.url)
    assert agent.name in out.splitlines()[2]


def test_ps_of_a_node_without_agents(tmp_path):
    with node(tmp_path, "--name", "house") as (_, url):
        assert call(tmp_path, "ps", url)[0] == "node house: 0 agents\n"


def test_ps_in_a_terminal_shows_a_table(tmp_path, token):
    args = ["--agent", "ann=fake:echo", "--token-file", "token", "--name", "house"]
    with node(tmp_path, *args) as (_, url):
        terminal = spawn(tmp_path, "ps", url, "--token-file", "token")
        terminal.expect("node house: 1 agent")
        terminal.expect("handled")
        terminal.expect("ann")
        end(terminal, 0)


def test_ps_with_a_wrong_token_or_none_is_told_what_to_do(tmp_path, token):
    (tmp_path / "other").write_text(secrets.token_urlsafe(32))
    (tmp_path / "other").chmod(0o600)
    with node(tmp_path, "--token-file", "token") as (_, url):
        for args in ([], ["--token-file", "other"]):
            out, err = call(tmp_path, "ps", url, *args, code=1)
            assert out == ""
            assert re.fullmatch(rf"error: .*{url}.*--token-file FILE.*\n", err)


def test_ps_where_nobody_listens_is_told_what_to_do(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        _, err = call(tmp_path, "ps", url, code=1)
    assert re.fullmatch(rf"error: .*{url}.*Is the node running, and is this its port\?\n", err)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-server\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"])
def test_ps_of_something_that_is_no_node_is_told_what_to_do(tmp_path, greeting):
    with other_service(greeting) as url:
        _, err = call(tmp_path, "ps", url, code=1)
    assert re.fullmatch(rf"error: .*{url}.*is this its port\?\n", err)


@contextmanager
def other_service(greeting):
    """Answer every connection with ``greeting``."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(greeting)
                    connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"ws://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["ps", "127.0.0.1:1"], "'127.0.0.1:1' is not the URL of a node,.*did you mean 'ws://127.0.0.1:1'?"),
        (["ps", "http://127.0.0.1:1"], r"is not the URL of a node, such as ws://127.0.0.1:12010\.$"),
        (["ps", "ws://127.0.0.1:1/ann"], "without the key of an agent"),
        (["node", "--listen", "foo"], r"'foo' is not a URL to --listen at, such as ws://127.0.0.1:12010\.$"),
        (["node", "--listen", "0.0.0.0:0"], "did you mean 'ws://0.0.0.0:0'?"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_is_no_url_is_told_from_what_is_wrong_with_one(tmp_path, args, said):
    _, err = call(tmp_path, *args, code=2)
    assert re.search(said, err)


@pytest.mark.parametrize("command", ["node", "serve"])
def test_commands_without_a_model_option_do_not_speak_of_one(tmp_path, command):
    out, _ = call(tmp_path, command, "--help")
    assert "--model-configs" in out
    assert not re.search(r"--model\b(?!-)", out)


@pytest.mark.parametrize(
    "url", ["nonsense", "http://127.0.0.1:1", "ws://", "ws://127.0.0.1:99999", "ws://127.0.0.1:1/ann"]
)
def test_ps_of_no_url_exits_with_2(tmp_path, url):
    _, err = call(tmp_path, "ps", url, code=2)
    assert re.fullmatch(r"error: .*\n", err)
