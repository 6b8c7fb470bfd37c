"""Planted secrets, one run that shows them to everybody who could pass them on, and a search for them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging as stdlib
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import pytest
from recorder import Recorder, Reply, Request
from recorder.faults import Fault

from agentscope_async import (
    AgentScopeError,
    ConfigError,
    DialogAgent,
    Runtime,
    _context,
    _redact,
    init,
    logging as system_log,
    models,
)
from agentscope_async.models import FallbackModel
from agentscope_async.models._fetch import fetch
from agentscope_async.models.dashscope import DashScopeChatWrapper
from agentscope_async.models.gemini import GeminiChatWrapper
from agentscope_async.models.ollama import OllamaChatWrapper
from agentscope_async.models.openai import OpenAIChatWrapper
from agentscope_async.models.post_api import PostAPIChatWrapper

# None of them looks like a key: what hides them must know them, not guess.
SECRETS = {
    "openai key by argument": "openaiArgument-7Hq2",
    "openai key in a config file": "openaiConfigFile-7Hq2",
    "openai key in the environment": "openaiEnvironment-7Hq2",
    "azure key by argument": "azureArgument-7Hq2",
    "azure key in the environment": "azureEnvironment-7Hq2",
    "dashscope key by argument": "dashscopeArgument-7Hq2",
    "dashscope key in a config file": "dashscopeConfigFile-7Hq2",
    "dashscope key in the environment": "dashscopeEnvironment-7Hq2",
    "gemini key by argument": "geminiArgument-7Hq2",
    "gemini key in a config file": "geminiConfigFile-7Hq2",
    "gemini key in the environment": "geminiEnvironment-7Hq2",
    "ollama key by argument": "ollamaArgument-7Hq2",
    "ollama key in a config file": "ollamaConfigFile-7Hq2",
    "ollama key in the environment": "ollamaEnvironment-7Hq2",
    "post_api key by argument": "postArgument-7Hq2",
    "post_api key in a config file": "postConfigFile-7Hq2",
    "Authorization among headers of post_api": "postHeader-7Hq2",
    "key in the address of post_api": "postAddress-7Hq2",
    "key in the body of post_api": "postBody-7Hq2",
    "Authorization among default_headers": "defaultAuthorization-7Hq2",
    "a gateway's own header": "gatewayHeader-7Hq2",
    "key in default_query": "default Query&7Hq2",
    "password in base_url": "urlPassword-7Hq2",
    "password in OLLAMA_HOST": "hostPassword-7Hq2",
    "password of a proxy": "proxy@Password-7Hq2",
    "password of a proxy in the environment": "environmentProxy-7Hq2",
}
HELLO = [{"role": "user", "content": "Hello!"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
OPENAI = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
    "usage": USAGE,
}
ANSWERS = {
    "openai": OPENAI,
    "post_api": OPENAI,
    "dashscope": {
        "output": {
            "choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]
        },
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    },
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Hi."}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
    },
    "ollama": {
        "message": {"role": "assistant", "content": "Hi."}, "done": True, "done_reason": "stop",
        "prompt_eval_count": 3, "eval_count": 2,
    },
}  # fmt: skip
FIRST_WORDS = {
    "openai": b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
    "dashscope": b'data: {"output":{"choices":[{"message":{"role":"assistant","content":"Hi"}}]}}\n\n',
    "gemini": b'data: {"candidates":[{"content":{"role":"model","parts":[{"text":"Hi"}]}}]}\n\n',
    "ollama": b'{"message":{"role":"assistant","content":"Hi"},"done":false}\n',
}
FAULTS = ("ok", "401", "429", "500", "302", "not-json", "wrong-form", "garbage")
STREAM_FAULTS = ("401", "error-event", "not-json", "cut")


def told_back(request: Request) -> dict[str, Any]:
    """What a careless server shows its callers: all they sent."""
    sent = {name: value for name, value in request.headers.items() if name != "content-length"}
    body = request.json if isinstance(request.json, dict) else {}
    given = {name: value for name, value in body.items() if isinstance(value, str)}
    return {"query": request.query, "body": given, "seen": sent, "words": " ".join(sent.values())}


async def answer(request: Request) -> Reply:
    """Answer as the address wants it: ``/FAULT/PROVIDER/...``."""
    _, fault, provider, *_ = request.path.split("/")
    told = told_back(request)
    text = " ".join([told["words"], *request.query.values(), *told["body"].values()])
    headers = {"X-Seen": text, "X-Request-Id": text, "Set-Cookie": f"seen={text}"}
    json = {"Content-Type": "application/json", **headers}
    error = {"message": f"Who is {text}?", "code": "no", "details": told, "type": "no"}
    flat = {**error, "error": error["message"]} if provider == "ollama" else error
    body = orjson.dumps(flat if provider in ("ollama", "dashscope") else {"error": error})
    match fault:
        case "ok":
            return Reply(200, json, orjson.dumps(ANSWERS[provider] | {"told_back": told}))
        case "401" | "429":
            return Reply(int(fault), json, body)
        case "500":
            return Reply(500, {"Content-Type": "text/html", **headers}, f"<h1>{text}</h1>{body!r}".encode())
        case "302":
            return Reply(302, {"Location": f"/?key={quote(text)}", **headers})
        case "wrong-form":
            return Reply(200, json, orjson.dumps({"choices": told, "output": told, "candidates": text}))
        case "error-event":
            line = body if provider == "ollama" else b"event: error\ndata: " + body + b"\n"
            kind = "ndjson" if provider == "ollama" else "sse"
            return Reply(200, headers, FIRST_WORDS[provider] + line + b"\n", kind)
        case "cut":
            kind = "ndjson" if provider == "ollama" else "sse"
            begun = FIRST_WORDS[provider] + body
            return Reply(200, headers, begun, kind, fault=Fault.parse(f"reset@{len(begun) - 2}"))
    return Reply(200, json, b"{" + text.encode())


@contextlib.asynccontextmanager
async def garbage() -> AsyncIterator[str]:
    """A server whose first line is no status line, but what it was sent."""
    async with raw_server(lambda head: b"HTTP/1.1 " + head.replace(b"\r\n", b" ") + b"\r\n\r\n") as origin:
        yield origin


@contextlib.asynccontextmanager
async def closed_proxy() -> AsyncIterator[str]:
    """A proxy that lets nobody through and says whom."""
    refusal = b"HTTP/1.1 407 Who is %s?\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(lambda head: refusal % b" ".join(head.split(b"\r\n")[1:]).strip()) as origin:
        yield origin.removeprefix("http://")


@contextlib.asynccontextmanager
async def raw_server(reply: Any) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(reply(await reader.readuntil(b"\r\n\r\n")))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@dataclass
class Findings:
    """All that was written, by where it was found."""

    texts: dict[str, str] = field(default_factory=dict)
    untyped: list[str] = field(default_factory=list)

    def note(self, place: str, value: Any) -> None:
        name = place
        while name in self.texts:
            name += "'"
        self.texts[name] = value if isinstance(value, str) else repr(value)

    def note_error(self, place: str, error: BaseException) -> None:
        """Everything an error says, and those it came from."""
        self.note(f"{place}: traceback", "".join(traceback.format_exception(error)))
        for each in chain(error):
            self.note(f"{place}: {type(each).__name__}", f"{each} {each!r} {each.args!r}")
            self.note(f"{place}: notes", getattr(each, "__notes__", []))
            if isinstance(each, AgentScopeError):
                self.note(f"{place}: attributes", vars(each))

    def note_files(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.note(f"file {path.name}", path.read_bytes().decode("utf-8", "replace"))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all it came from as a traceback shows it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def attempt(found: Findings, place: str, call: Any) -> None:
    """Make a call that may fail."""
    try:
        await call()
    except Exception as error:
        found.note_error(place, error)


async def listened(model: Any) -> None:
    async with model.stream(HELLO) as stream:
        found = [speech async for speech in stream]
    assert found


def wrappers(origin: str, refused: str, http: str, folder: Path, proxy: str) -> dict[str, Any]:
    """Wrappers by what they are told; the key of each comes in its own way."""
    args = {"max_retries": 0, "http": http}
    made: dict[str, Any] = {}
    kinds = {
        "openai": (OpenAIChatWrapper, "/v1"),
        "dashscope": (DashScopeChatWrapper, "/api/v1"),
        "gemini": (GeminiChatWrapper, "/v1beta"),
        "ollama": (OllamaChatWrapper, ""),
    }
    for fault in dict.fromkeys((*FAULTS, *STREAM_FAULTS, "refused")):
        start = {"refused": refused, "garbage": os.environ["GARBAGE"]}.get(fault, origin)
        for name, (kind, path) in kinds.items():
            url = f"{start}/{fault}/{name}{path}"
            key = SECRETS[f"{name} key by argument"]
            made[f"{name} {fault}"] = kind(name, "m", api_key=key, base_url=url, client_args=args)
            made[f"{name} {fault} env"] = kind(name, "m", base_url=url, client_args=args)
        post = {"api_url": f"{start}/{fault}/post_api", "max_retries": 1, "client_args": args}
        made[f"post_api {fault}"] = PostAPIChatWrapper(
            "post", **post, api_key=SECRETS["post_api key by argument"]
        )
        post["api_url"] += f"?code={SECRETS['key in the address of post_api']}"
        made[f"post_api {fault} headers"] = PostAPIChatWrapper(
            "post",
            **post,
            headers={"Authorization": f"Basic {SECRETS['Authorization among headers of post_api']}"},
            json_args={"api_key": SECRETS["key in the body of post_api"]},
        )
        for more, key in (("", SECRETS["azure key by argument"]), (" env", None)):
            azure = {"azure_endpoint": f"{start}/{fault}/openai", "api_version": "1", **args}
            made[f"azure {fault}{more}"] = OpenAIChatWrapper("azure", "m", key, client_args=azure)
        headers = {
            "Authorization": f"Bearer {SECRETS['Authorization among default_headers']}",
            "X-Gateway-Key": SECRETS["a gateway's own header"],
        }
        query = {"code": SECRETS["key in default_query"]}
        for name, (kind, path) in kinds.items():
            more = {**args, "default_headers": headers, "default_query": query}
            made[f"{name} {fault} headers"] = (
                kind(name, "m", "no-key-here", base_url=f"{start}/{fault}/{name}{path}", client_args=more)
                if name != "ollama"
                else kind(name, "m", base_url=f"{start}/{fault}/{name}", client_args=more)
            )
        password = SECRETS["password in base_url"]
        with_password = start.replace("://", f"://user:{password}@")
        made[f"openai {fault} password"] = OpenAIChatWrapper(
            "o", "m", "no-key-here", base_url=f"{with_password}/{fault}/openai/v1", client_args=args
        )
        through = f"http://user:{quote(SECRETS['password of a proxy'])}@{proxy}"
        for scheme in ("http", "https"):
            made[f"openai {fault} {scheme} proxy"] = OpenAIChatWrapper(
                "o", "m", "no-key-here", base_url=f"{scheme}://example.invalid/{fault}/openai/v1",
                client_args={**args, "proxy": through},
            )  # fmt: skip
            made[f"openai {fault} {scheme} env proxy"] = OpenAIChatWrapper(
                "o", "m", "no-key-here", base_url=f"{scheme}://example.invalid/{fault}/openai/v1",
                client_args=args,
            )  # fmt: skip
    return made


def configs(origin: str, fault: str) -> list[dict[str, Any]]:
    """What a config file says: a key for each provider."""
    kinds = {"openai": "/v1", "dashscope": "/api/v1", "gemini": "/v1beta", "ollama": ""}
    client_args = {"max_retries": 0}
    listed: list[dict[str, Any]] = [
        {
            "config_name": f"{name} by config", "model_type": f"{name}_chat", "model_name": "m",
            "api_key": SECRETS[f"{name} key in a config file"], "base_url": f"{origin}/{fault}/{name}{path}",
            "client_args": client_args,
        }
        for name, path in kinds.items()
    ]  # fmt: skip
    post = {"config_name": "post by config", "model_type": "post_api_chat", "max_retries": 1}
    post |= {"api_url": f"{origin}/{fault}/post_api", "api_key": SECRETS["post_api key in a config file"]}
    return [*listed, post]


def refused_origin() -> str:
    """Return an address nobody listens at."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def note_faces(found: Findings, name: str, model: Any) -> None:
    """What a wrapper and its parts look like where somebody prints them."""
    found.note(f"wrapper {name}", f"{model!r} {model}")
    found.note(f"options {name}", model.options)
    found.note(f"request {name}", model.build_request(HELLO, {}, stream=False))
    found.note(f"parts of {name}", [value for key, value in vars(model).items() if key in PARTS])


PARTS = ("carrier", "host", "options", "_budget", "_gate")


async def run(folder: Path, http: str) -> Findings:
    found = Findings()
    init(save_dir=folder / "init", logger_level="TRACE", project="p", save_code=False)
    async with Recorder(answer) as server, garbage() as bad, closed_proxy() as proxy:
        os.environ["GARBAGE"] = bad
        os.environ["https_proxy"] = f"http://u:{SECRETS['password of a proxy in the environment']}@{proxy}"
        os.environ["http_proxy"] = os.environ["https_proxy"]
        async with Runtime(save_dir=folder / "runs", save_api_invoke=True, chat=io.StringIO()) as runtime:
            events: list[Any] = []
            reading = asyncio.create_task(collect(runtime, events))
            await asyncio.sleep(0)
            made = wrappers(server.origin, refused_origin(), http, folder, proxy)
            for name, model in made.items():
                note_faces(found, name, model)
                await attempt(found, name, lambda model=model: model(HELLO))
                if "post_api" not in name and name.split()[1] in STREAM_FAULTS:
                    await attempt(found, f"stream of {name}", lambda model=model: listened(model))
            readable = DashScopeChatWrapper(
                "d", "m", base_url=f"{server.origin}/ok/dashscope",
                client_args={"workspace": "ws-readable", "http": http}, generate_args={"max_tokens": 4711},
            )  # fmt: skip
            await readable(HELLO)
            await by_config(found, runtime, folder, server.origin)
            await by_agents(found, runtime, made)
            await careless(found, server.origin, folder)
            found.note("runtime", f"{runtime!r} {runtime.models!r} {runtime.monitor!r} {runtime.files!r}")
        await reading
        found.note("events", events)
        found.note("event fields", [getattr(event, "error", None) for event in events])
    found.note_files(folder)
    return found


async def collect(runtime: Runtime, events: list[Any]) -> None:
    events += [event async for event in runtime.events()]


async def by_config(found: Findings, runtime: Runtime, folder: Path, origin: str) -> None:
    for fault in ("ok", "401"):
        path = folder.parent / f"{folder.name}-{fault}.json"
        path.write_bytes(orjson.dumps(configs(origin, fault)))
        registry = models.ModelRegistry()
        registry.read(path)
        found.note("registry", f"{registry!r} {registry} {registry.names()}")
        for name in registry.names():
            model = registry.load(name)
            note_faces(found, name, model)
            await attempt(found, name, lambda model=model: model(HELLO))


async def by_agents(found: Findings, runtime: Runtime, made: dict[str, Any]) -> None:
    """Agents that fail in public: dead letters, the system log, the next model asked."""
    for name in ("openai 401", "gemini 500", "ollama 401 headers", "dashscope 429"):
        both = FallbackModel([made[name], made["openai 500"]])
        for model in (made[name], both):
            agent = DialogAgent(name, "Be brief.", model)
            found.note(f"agent {name}", f"{agent!r}")
            try:
                found.note(f"settings of {name}", agent.export_config())
            except ConfigError as error:  # no settings hold a key that was given by argument
                found.note_error(f"settings of {name}", error)
            await agent.post("Hello!")
            await runtime.drain()
    for letter in runtime.dead_letters:
        found.note("dead letter", letter)
        assert letter.error is not None
        found.note_error("dead letter", letter.error)


async def careless(found: Findings, origin: str, folder: Path) -> None:
    """Mistakes whose error messages must not repeat what was mistaken."""
    key = SECRETS["openai key by argument"]
    password = SECRETS["password in OLLAMA_HOST"]
    for name, make in {
        "key with a line break": lambda: OpenAIChatWrapper("o", "m", f"{key}\n", base_url=origin)(HELLO),
        "key with a quotation mark": lambda: OpenAIChatWrapper("o", "m", f"“{key}”", base_url=origin)(HELLO),
        "key as bytes": lambda: OpenAIChatWrapper("o", "m", key.encode(), base_url=origin),
        "address without a scheme": lambda: OpenAIChatWrapper(
            "o", "m", key, base_url=f"u:{password}@host/v1"
        ),
        "address with a bad port": lambda: OllamaChatWrapper("o", "m", host=f"http://u:{password}@h:x"),
        "password with a hash": lambda: OllamaChatWrapper("o", "m", host=f"http://u:#{password}@h:1"),
        "proxy of no known kind": lambda: OpenAIChatWrapper(
            "o", "m", key, base_url=origin, client_args={"proxy": f"ftp://u:{password}@h:1"}
        )(HELLO),
        "header that is no text": lambda: OpenAIChatWrapper(
            "o", "m", key, base_url=origin, client_args={"default_headers": {"X-Key": [key]}}
        )(HELLO),
        "JSON for a path": lambda: models.ModelRegistry().read(orjson.dumps(configs(origin, "ok")).decode()),
        "a redirection": lambda: fetch(f"{origin}/302/openai?code={quote(key)}", allow_private=True),
    }.items():
        try:
            result = make()
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:
            found.note_error(name, error)
            if not isinstance(error, (ConfigError, ConnectionError)):
                found.untyped.append(f"{name}: {error!r}")


@pytest.fixture(scope="module", params=["httpx", "aiohttp"])
def found(request: pytest.FixtureRequest) -> Findings:
    """All that one run wrote, over either transport."""
    log, output = io.StringIO(), io.StringIO()
    handler = stdlib.StreamHandler(log)
    handler.setFormatter(stdlib.Formatter("%(name)s %(message)s"))
    keys = {
        "OPENAI_API_KEY": "openai", "AZURE_OPENAI_API_KEY": "azure", "DASHSCOPE_API_KEY": "dashscope",
        "GOOGLE_API_KEY": "gemini", "OLLAMA_API_KEY": "ollama",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for variable, provider in keys.items():
            patch.setenv(variable, SECRETS[f"{provider} key in the environment"])
        for variable in ("GARBAGE", "https_proxy", "http_proxy"):
            patch.setenv(variable, "")  # set in the run, undone here
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(_redact, "_known", ())
        patch.setattr(_context, "process_services", None)
        root, ours = stdlib.getLogger(), stdlib.getLogger("agentscope_async")
        before = (root.level, ours.level, ours.propagate)
        root.addHandler(handler)
        root.setLevel(1)
        try:
            with (
                warnings.catch_warnings(record=True) as warned,
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(output),
            ):
                warnings.simplefilter("always")
                findings = asyncio.run(run(Path(folder), request.param))
        finally:
            root.removeHandler(handler)
            root.setLevel(before[0])
            ours.propagate = before[2]
            ours.setLevel(before[1])
            for each in list(ours.handlers):
                ours.removeHandler(each)
                each.close()
            system_log._default_chat.use(None)
    findings.note("logs of all libraries", log.getvalue())
    findings.note("terminal", output.getvalue())
    findings.note("warnings", [str(each.message) for each in warned])
    return findings


def forms(secret: str) -> set[str]:
    """A secret as it may be written."""
    coded = {base64.b64encode(f"{user}:{secret}".encode()).decode() for user in ("user", "u")}
    return {secret, quote(secret), quote_plus(secret), *coded}


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_is_in_anything_that_was_written(found: Findings, name: str):
    leaks = [
        f"{place}: ...{text[max(0, at.start() - 60) : at.end() + 20]}"
        for place, text in found.texts.items()
        for form in forms(SECRETS[name])
        for at in [re.search(re.escape(form), text)]
        if at
    ]
    assert not leaks, "\n".join(leaks)


def test_careless_values_are_refused_as_configuration(found: Findings):
    assert found.untyped == []


def test_what_is_no_secret_stays_readable(found: Findings):
    written = "".join(text for place, text in found.texts.items() if place.startswith("file model_"))
    for text in ("ws-readable", '"max_tokens": 4711', "completion_tokens"):
        assert text in written


def test_the_system_log_hides_a_key_from_any_handler(caplog: pytest.LogCaptureFixture):
    _redact.remember_secret("logged-Key-7Hq2")
    ours = stdlib.getLogger("agentscope_async")
    ours.addHandler(caplog.handler)
    try:
        try:
            raise ValueError("logged-Key-7Hq2 is wrong")
        except ValueError:
            system_log.get_logger().exception("failed", key="logged-Key-7Hq2", max_tokens=5)
    finally:
        ours.removeHandler(caplog.handler)
    assert "logged-Key-7Hq2" not in caplog.text
    assert "ValueError: <redacted> is wrong" in caplog.text
    assert "max_tokens=5" in caplog.text


def test_the_chat_log_keeps_what_was_said(tmp_path: Path):
    log = system_log.ChatLog(file=tmp_path / "logging.chat")
    log.show("my password: correct-horse-battery")
    log.close()
    assert b"correct-horse-battery" in (tmp_path / "logging.chat").read_bytes()
