"""What people read: the chat in the terminal, the chat log and the system log.

The text of a message is data. It is never a format string or markup, so braces, tags
and percent signs come out as they went in; control characters are made visible, so
that no text can move the cursor or forge a log line.
"""

from __future__ import annotations

import logging as _stdlib
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import orjson

from ._context import trace_id
from ._redact import redact_text
from .errors import ConfigError
from .message import Msg
from .message.parts import thaw

if TYPE_CHECKING:
    import structlog

__all__ = ["COLOURS", "LEVELS", "ChatLog", "chat", "get_logger", "setup_logger"]

LEVELS = {
    "TRACE": 5,
    "DEBUG": 10,
    "INFO": 20,
    "CHAT": 21,
    "SUCCESS": 25,
    "WARNING": 30,
    "ERROR": 40,
    "CRITICAL": 50,
}
"""Names a ``logger_level`` may have; AgentScope v0.0.2's, and CHAT, which it only documented."""

_LEVEL_NAMES = {number: name for name, number in LEVELS.items()}

COLOURS = {"cyan": 36, "green": 32, "magenta": 35, "red": 31, "white": 37, "yellow": 33, "blue": 34}
"""Speakers get these in the order they first speak, then from the start again (ANSI codes)."""

MAX_LOG_LINE = 10_000
"""Characters of one event in the system log; the rest is cut, and the cut is marked."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ChatLog:
    """Writes what agents say, to a terminal and to a file of JSON lines, each if given."""

    def __init__(self, *, terminal: TextIO | bool = False, file: Path | None = None) -> None:
        """Write to ``terminal`` (in colour when it is one) and append to ``file``.

        ``terminal=True`` is whatever standard output is at each message: it changes in
        notebooks and under test runners.
        """
        self._given_terminal = terminal
        self._colours: dict[str, int] = {}
        self._file = file.open("ab") if file is not None else None

    @property
    def is_on_terminal(self) -> bool:
        """It writes to standard output."""
        return self._given_terminal is True or self._given_terminal is sys.stdout

    @property
    def _terminal(self) -> TextIO | None:
        return sys.stdout if self._given_terminal is True else self._given_terminal or None

    def show(self, message: Msg | dict[str, Any] | str) -> None:
        """Write one message: ``speaker: text``, then ``speaker: url`` for each attachment."""
        if self._file is not None:
            self._file.write(_as_json_line(message))
            self._file.flush()
        terminal = self._terminal
        if terminal is None:
            return
        text = "".join(line + "\n" for line in self.lines(message))
        try:
            terminal.write(text)
        except UnicodeEncodeError:  # a terminal of few characters; a turn must not fail for that
            encoding = terminal.encoding or "ascii"
            terminal.write(text.encode(encoding, "backslashreplace").decode(encoding))
        terminal.flush()

    def lines(self, message: Msg | dict[str, Any] | str) -> list[str]:
        """Return the terminal lines for one message."""
        if isinstance(message, str):
            return [visible(message)]
        speaker = message.get("name") or message.get("role")
        text = message.text if isinstance(message, Msg) else message.get("content")
        if not isinstance(speaker, str) or (text is None and not message.get("url")):
            return [visible(str(dict(message)))]
        url = message.get("url")
        urls = url if isinstance(url, list) else [url] if url else []
        said = [] if text is None or (text == "" and urls) else [text]
        return [f"{self.coloured(speaker)}: {visible(str(part))}" for part in (*said, *urls)]

    def coloured(self, speaker: str) -> str:
        """Return the speaker's name, bold and in its colour when the terminal is one."""
        code = self._colours.setdefault(speaker, list(COLOURS.values())[len(self._colours) % len(COLOURS)])
        name = visible(speaker)
        terminal = self._terminal
        if terminal is None or not terminal.isatty():
            return name
        return f"\x1b[1;{code}m{name}\x1b[0m"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def visible(text: str) -> str:
    """Return ``text`` with control characters, save newline and tab, made visible as their codes."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def setup_logger(path_log: str | Path | None = None, level: str = "INFO") -> ChatLog:
    """Send the system log and the chat to the terminal and, with ``path_log``, into that folder.

    Files: ``logging.log`` (``time | level | module:function:line - message``) and
    ``logging.chat`` (one JSON value a line). Calling it again replaces the former set-up.

    Raises:
        ConfigError: ``level`` is not one of :data:`LEVELS`.
    """
    threshold = level_number(level)
    folder = Path(path_log) if path_log is not None else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    logger = _stdlib.getLogger("agentscope_async")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers: list[_stdlib.Handler] = [_stdlib.StreamHandler(sys.stderr)]
    if folder is not None:
        handlers.append(_stdlib.FileHandler(folder / "logging.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_LineFormatter())
        logger.addHandler(handler)
    logger.setLevel(threshold)
    logger.propagate = False
    _default_chat.use(
        ChatLog(
            terminal=threshold <= LEVELS["CHAT"],
            file=folder / "logging.chat" if folder is not None else None,
        )
    )
    return _default_chat.log


def brief(error: BaseException) -> str:
    """Return an error's type and at most 4 KiB of its text, also when asking for that text fails."""
    try:
        text = str(error)
    except Exception:
        text = "<its text cannot be had>"
    return f"{type(error).__name__}: {text[:4096]}".encode(errors="backslashreplace").decode()


def level_number(level: str) -> int:
    """Return the threshold for a level's name.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"Log level {level!r} does not exist; use one of {', '.join(LEVELS)}.")
    return LEVELS[level]


def chat(message: Msg | dict[str, Any] | str) -> None:
    """Write to the chat log of :func:`setup_logger`; before any set-up, to standard output."""
    _default_chat.log.show(message)


def show_if_set_up(message: Msg) -> None:
    """Write to the chat log if :func:`setup_logger` made one."""
    if _default_chat.is_set_up:
        _default_chat.log.show(message)


def _add_trace(logger: Any, method: str, event: Any) -> Any:
    id = trace_id.get()
    if id is not None:
        event.setdefault("trace", id)
    return event


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return the system log: ``get_logger().warning("event_name", key=value)``.

    Keys and values are data, one event is one line. It goes to the standard library's
    logger ``agentscope_async``, so an application decides with its own logging set-up;
    structlog's global configuration is not touched. What is or looks like a key is hidden, in
    tracebacks, too: handlers write, mail and upload what they get. (The chat log is not
    searched: what people and models say is theirs, and is kept as it is.)
    """
    import structlog

    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            _stdlib.getLogger("agentscope_async"),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                _add_trace,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
                _at_the_call,
            ],
        ),
    )


def _at_the_call(logger: Any, method: str, text: Any) -> tuple[tuple[str], dict[str, Any]]:
    """Let the line name the place that logged it, not structlog's own frames."""
    # The text has the traceback already; from exc_info every handler would write it as it is.
    return (redact_text(str(text)),), {"stacklevel": 4, "exc_info": False}


class _DefaultChat:
    """The process-wide chat log."""

    def __init__(self) -> None:
        self._log: ChatLog | None = None

    @property
    def is_set_up(self) -> bool:
        return self._log is not None

    @property
    def log(self) -> ChatLog:
        return self._log if self._log is not None else ChatLog(terminal=True)

    def use(self, log: ChatLog | None) -> None:
        if self._log is not None:
            self._log.close()
        self._log = log


_default_chat = _DefaultChat()


class _LineFormatter(_stdlib.Formatter):
    """``time | level | module:function:line - message``, one line whatever the message holds."""

    def format(self, record: _stdlib.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        text = visible(text).replace("\n", "\\n")
        if len(text) > MAX_LOG_LINE:
            text = f"{text[:MAX_LOG_LINE]}... ({len(text)} characters)"
        level = _LEVEL_NAMES.get(record.levelno, record.levelname)
        return (
            f"{stamp}.{int(record.msecs):03d} | {level:<8} | "
            f"{record.module}:{record.funcName}:{record.lineno} - {text}"
        )


def _as_json_line(message: Msg | dict[str, Any] | str) -> bytes:
    value = message.to_dict() if isinstance(message, Msg) else thaw(message)
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, default=str, option=options)
    except TypeError:  # a lone surrogate, say: a log takes anything
        return orjson.dumps(ascii(value), option=options)
