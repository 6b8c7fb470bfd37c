"""Readers of streamed answers: bytes in, events out, no I/O.

Feed a reader what the connection gave, in pieces of any size: the events do not depend on
where the pieces were cut. A reader works on bytes alone. Splitting text with
``str.splitlines``, as httpx's ``aiter_lines`` does, breaks JSON at a raw U+2028 or U+0085,
and a piece of the body may end inside a character. So ``data`` is handed out as bytes:
``orjson.loads`` takes them as they are, and refuses invalid UTF-8 with the error it has for
invalid JSON, a ``ValueError``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import NamedTuple

__all__ = [
    "MAX_LINE_BYTES",
    "JSONArrayReader",
    "MalformedStreamError",
    "NDJSONReader",
    "SSEReader",
    "ServerEvent",
]

MAX_LINE_BYTES = 64 * 1024 * 1024
"""The longest line, event or array element that is kept waiting for its end."""

LINE_COST_BYTES = 64
"""Charged for each kept line on top of its length, so that many tiny ones are bounded too."""

BOM = b"\xef\xbb\xbf"


class MalformedStreamError(ValueError):
    """The body cannot be a stream of this format."""


class ServerEvent(NamedTuple):
    """One event of a stream.

    Attributes:
        event: its name, ``""`` if it has none (always so in NDJSON and JSON arrays).
        data: its content, normally JSON; not decoded, so not known to be valid UTF-8.
        comments: the comments among its lines, without colon: DashScope sends the true status
            as ``:HTTP_STATUS/429``. Empty ones are left out.
    """

    event: str
    data: bytes
    comments: tuple[bytes, ...] = ()


class StreamReader(ABC):
    """What the readers share: events before a malformed line are given, then the error is raised."""

    def __init__(self) -> None:
        self._failure: MalformedStreamError | None = None

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Take the next piece of the body and return the events it completes, in order.

        Raises:
            MalformedStreamError: the body is not of this format, or one of its lines is longer
                than ``MAX_LINE_BYTES``. When the same piece completed events before that, they
                are returned, and the next call raises; so does every later one.
        """
        return self._attempt(chunk, [])

    def close(self) -> list[ServerEvent]:
        """Take the end of the body and return the event it was in the middle of, if any.

        Servers may leave out the last line end, so this event can be whole; it can also be
        cut short. JSON that does not parse here means a truncated body, not a bad answer.

        Raises:
            MalformedStreamError: as in ``feed``.
        """
        return self._attempt(None, [])

    def _attempt(self, chunk: bytes | None, events: list[ServerEvent]) -> list[ServerEvent]:
        try:
            if self._failure is not None:
                raise self._failure
            if chunk is None:
                self._finish(events)
            else:
                self._read(chunk, events)
        except MalformedStreamError as error:
            self._failure = error
            if not events:
                raise
        return events

    @abstractmethod
    def _read(self, chunk: bytes, events: list[ServerEvent]) -> None: ...

    @abstractmethod
    def _finish(self, events: list[ServerEvent]) -> None: ...


class SSEReader(StreamReader):
    r"""Reads Server-Sent Events (WHATWG HTML, section 9.2.6), more leniently than the standard.

    Lines end at LF, CR or CRLF. ``id``, ``retry`` and unknown fields are ignored, as is an
    event without data. Bare JSON where a line begins (``{`` or ``[``) is an event of its own
    that ends where its brackets balance: Gemini reports errors so in mid-stream.

    >>> reader = SSEReader()
    >>> reader.feed(b'data: {"n": 1}\n\ndata: {"n"')
    [ServerEvent(event='', data=b'{"n": 1}', comments=())]
    >>> reader.feed(b": 2}\n\n")[0].data
    b'{"n": 2}'
    """

    def __init__(self) -> None:
        super().__init__()
        self._tail = bytearray()  # an unfinished line, or the unfinished JSON that `_nesting` counts
        self._nesting: Nesting | None = None
        self._is_at_start = True
        self._is_after_cr = False
        self._event = ""
        self._data: list[bytes] = []
        self._comments: list[bytes] = []
        self._kept_bytes = 0  # of the three above: 0 between events

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        if self._is_after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        # Nearly every piece is one whole event of one data line, or several: cut those out all at once.
        if chunk[:6] == b"data: " and not (self._tail or self._kept_bytes or self._failure):
            if chunk.find(b"\n") == len(chunk) - 2 and chunk[-1] == LF:
                self._is_at_start = False
                return [new_event(ServerEvent, ("", chunk[6:-2], ()))]
            values = chunk[6:-2].split(b"\n\ndata: ")
            if chunk.count(b"\n") == 2 * len(values) and chunk[-2:] == b"\n\n":
                self._is_at_start = False
                return [new_event(ServerEvent, ("", value, ())) for value in values]
        return self._attempt(chunk, [])

    def _with_lf(self, chunk: bytes) -> bytes:
        """Return ``chunk`` with LF for each line end; a CRLF cut in two is one line end."""
        if self._is_after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._is_after_cr = False
        if b"\r" in chunk:
            self._is_after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _read(self, chunk: bytes, events: list[ServerEvent]) -> None:
        text = self._without_bom(chunk) if self._is_at_start else chunk
        if self._tail:
            self._tail += text
            if not self._tail_can_be_taken(text):
                check_size("line", len(self._tail))
                return
            text = bytes(self._tail)
            self._tail.clear()
        self._tail += text[self._take(text, events) :]
        check_size("line", len(self._tail))

    def _without_bom(self, chunk: bytes) -> bytes:
        """Return the beginning of the body without a byte order mark, or nothing while one may be cut."""
        start = bytes(self._tail) + chunk
        self._tail.clear()
        if len(start) < len(BOM) and BOM.startswith(start):
            self._tail += start
            return b""
        self._is_at_start = False
        return start.removeprefix(BOM)

    def _tail_can_be_taken(self, chunk: bytes) -> bool:
        """Whether ``chunk``, which ends the tail, brought the end of what the tail began."""
        if self._nesting is None:
            return b"\n" in chunk
        if self._nesting.find_end(self._tail) < 0:
            return False
        self._nesting = None
        return True

    def _take(self, text: bytes, events: list[ServerEvent]) -> int:
        """Take whole lines and bare JSON from the start of a line on; return where the unfinished begins."""
        at = 0
        while at < len(text):
            if text[at] in b"{[":
                end = self._take_json(text, at, events)
            elif not self._kept_bytes and (whole := WHOLE_EVENT.match(text, at)):
                events.append(new_event(ServerEvent, ("", whole[1], ())))
                end = whole.end()
            else:
                end = text.find(b"\n", at) + 1
                if end:
                    self._take_line(text[at : end - 1], events)
            if end <= 0:
                break
            at = end
        return at

    def _take_json(self, text: bytes, start: int, events: list[ServerEvent]) -> int:
        if self._data:
            self._dispatch(events)
        nesting = Nesting(start)
        end = nesting.find_end(text)
        if end < 0:
            nesting.position -= start
            self._nesting = nesting
        else:
            self._give_json(text[start:end], events)
        return end

    def _give_json(self, text: bytes, events: list[ServerEvent]) -> None:
        events.append(ServerEvent("", text, tuple(self._comments)))
        self._forget()

    def _take_line(self, line: bytes, events: list[ServerEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._event = decoded(value)
        elif not field and value:
            self._comments.append(value)
        else:
            return
        self._kept_bytes += len(value) + LINE_COST_BYTES
        if self._kept_bytes > MAX_LINE_BYTES:
            check_size("event", self._kept_bytes)

    def _dispatch(self, events: list[ServerEvent]) -> None:
        if self._data:
            fields = (self._event, b"\n".join(self._data), tuple(self._comments))
            events.append(new_event(ServerEvent, fields))
        if self._kept_bytes:
            self._forget()

    def _forget(self) -> None:
        self._event = ""
        self._data = []
        self._comments = []
        self._kept_bytes = 0

    def _finish(self, events: list[ServerEvent]) -> None:
        rest = bytes(self._tail)
        self._tail.clear()
        if self._nesting is not None:
            self._nesting = None
            self._give_json(rest, events)
            return
        if rest:
            self._take_line(rest, events)
        self._dispatch(events)


class NDJSONReader(StreamReader):
    """Reads one JSON value a line.

    Lines end at LF or CRLF and blank ones are skipped; the last may come without its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tail = bytearray()

    def _read(self, chunk: bytes, events: list[ServerEvent]) -> None:
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._tail:
            lines[0] = bytes(self._tail + lines[0])
            self._tail.clear()
        for line in lines:
            self._take_line(line, events)
        self._tail += rest
        check_size("line", len(self._tail))

    def _take_line(self, line: bytes, events: list[ServerEvent]) -> None:
        line = line.removesuffix(b"\r")
        if line and not line.isspace():
            events.append(new_event(ServerEvent, ("", line, ())))

    def _finish(self, events: list[ServerEvent]) -> None:
        line = bytes(self._tail)
        self._tail.clear()
        self._take_line(line, events)


class JSONArrayReader(StreamReader):
    r"""Reads a JSON array that is sent piecewise: each element is an event as soon as it is complete.

    A body that is no array is read as one element, so an error object in place of the array
    is the only event. Commas and the closing bracket are not insisted upon: whether the
    answer is complete is for its last element to say.

    >>> reader = JSONArrayReader()
    >>> [event.data for event in reader.feed(b'[{"n": 1}\r\n,\r\n{"n":')]
    [b'{"n": 1}']
    """

    def __init__(self) -> None:
        super().__init__()
        self._text = bytearray()
        self._nesting: Nesting | None = None  # of the element at the start of `_text`
        self._is_before_array = True

    def _read(self, chunk: bytes, events: list[ServerEvent]) -> None:
        self._text += chunk
        start = 0
        while (start := self._element_start(start)) < len(self._text):
            self._nesting = self._nesting or Nesting(start)
            end = self._nesting.find_end(self._text)
            if end < 0:
                self._nesting.position -= start
                break
            events.append(ServerEvent("", bytes(self._text[start:end]).rstrip()))
            self._nesting = None
            start = end
        del self._text[:start]
        check_size("array element", len(self._text))

    def _element_start(self, at: int) -> int:
        """Return where the element begins that ``at`` is at the start of, or before."""
        if self._nesting is not None:
            return at
        if self._is_before_array:
            at = skip(BLANKS, self._text, at)
            self._is_before_array = at == len(self._text)
            at += self._text[at : at + 1] == b"["
        return skip(BETWEEN_ELEMENTS, self._text, at)

    def _finish(self, events: list[ServerEvent]) -> None:
        rest = bytes(self._text).strip()
        self._text.clear()
        self._nesting = None
        if rest:
            events.append(ServerEvent("", rest))


WHOLE_EVENT = re.compile(rb"data: ?([^\n]*)\n\n")
BLANKS = re.compile(rb"[ \t\r\n]*")
BETWEEN_ELEMENTS = re.compile(rb"[ \t\r\n,\]]*")

LF = ord("\n")
QUOTE = ord('"')
BACKSLASH = ord("\\")
MARKS_IN_STRING = re.compile(rb'["\\]')
MARKS_IN_BRACKETS = re.compile(rb'["{}\[\]]')
MARKS_OUTSIDE = re.compile(rb'["{\[\],]')  # a lone } ends nothing; whoever parses it will complain


class Nesting:
    """Counts the brackets of a JSON value that grows; no byte is read twice.

    Attributes:
        position: where counting goes on: beyond the end of the text if that is a backslash.
    """

    def __init__(self, start: int) -> None:
        self.position = start
        self._depth = 0
        self._is_in_string = False

    def find_end(self, text: bytes | bytearray) -> int:
        """Count on in ``text``, which may only have grown since; return where the value ends, or -1.

        An object or array ends after its closing bracket, another value before the comma or
        closing bracket that follows it.
        """
        while mark := self._marks().search(text, self.position):
            self.position = mark.end()
            byte = text[mark.start()]
            if byte == BACKSLASH:
                self.position += 1
            elif byte == QUOTE:
                self._is_in_string = not self._is_in_string
            elif byte in b"{[":
                self._depth += 1
            elif self._depth > 1:
                self._depth -= 1
            else:
                return self.position if self._depth else mark.start()
        self.position = max(self.position, len(text))
        return -1

    def _marks(self) -> re.Pattern[bytes]:
        if self._is_in_string:
            return MARKS_IN_STRING
        return MARKS_IN_BRACKETS if self._depth else MARKS_OUTSIDE


def skip(pattern: re.Pattern[bytes], text: bytearray, at: int) -> int:
    """Return the end of what ``pattern``, which matches nothing too, matches at ``at``."""
    match = pattern.match(text, at)
    return match.end() if match else at


def decoded(name: bytes) -> str:
    """Return an event's name as text."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise MalformedStreamError(f"An event's name is not UTF-8: {name[:80]!r}") from error


def check_size(what: str, size_bytes: int) -> None:
    """Refuse to keep more than is sane."""
    if size_bytes > MAX_LINE_BYTES:
        raise MalformedStreamError(
            f"One {what} of the stream has more than {MAX_LINE_BYTES} bytes; reading was given up."
        )


# Half the time of calling the class.
new_event = tuple.__new__
