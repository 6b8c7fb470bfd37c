"""Streamed answers taken apart: SSE, one JSON value a line, a JSON array sent piecewise."""

from __future__ import annotations

import doctest
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given, settings, strategies as st

from agentscope_async.models import _sse
from agentscope_async.models._sse import (
    MAX_LINE_BYTES,
    JSONArrayReader,
    MalformedStreamError,
    NDJSONReader,
    ServerEvent,
    SSEReader,
)

WIRE = Path(__file__).parent.parent / "fixtures" / "wire"
READERS = [SSEReader, NDJSONReader, JSONArrayReader]
GEMINI_ERROR = orjson.dumps(
    {"error": {"code": 503, "message": 'a "}" or \\" is no end', "status": "UNAVAILABLE"}},
    option=orjson.OPT_INDENT_2,
)
AWKWARD_TEXT = "a\u2028b\u2029c\x85d\u00e9\U0001f600"
"""What str.splitlines would break, and characters of two, three and four bytes."""


def read(reader, *chunks: bytes) -> list[ServerEvent]:
    return [event for chunk in chunks for event in reader.feed(chunk)] + reader.close()


def sse(*chunks: bytes) -> list[ServerEvent]:
    return read(SSEReader(), *chunks)


def data(events: list[ServerEvent]) -> list[bytes]:
    return [event.data for event in events]


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def outcome(reader, chunks: list[bytes]) -> tuple[list[ServerEvent], bool]:
    """The events a body gives and whether it was refused in the end."""
    events: list[ServerEvent] = []
    try:
        for chunk in chunks:
            events += reader.feed(chunk)
        events += reader.close()
        events += reader.close()
    except MalformedStreamError:
        return events, True
    return events, False


# Server-Sent Events.


def test_one_space_after_the_colon_is_dropped_and_no_more():
    assert data(sse(b"data:x\n\ndata: x\n\ndata:  x\n\ndata:\tx\n\n")) == [b"x", b"x", b" x", b"\tx"]


def test_data_lines_of_an_event_are_joined_with_lf():
    assert data(sse(b"data: a\ndata:b\ndata\ndata:\ndata: c\n\n")) == [b"a\nb\n\n\nc"]


def test_empty_data_is_an_event_and_none_is_not():
    assert data(sse(b"data:\n\n\n\nevent: ping\n\nid: 7\n\n:\n\ndata: x\n\n")) == [b"", b"x"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_any_line_end_will_do_also_when_cut_in_two(end, size):
    body = b"event: a\n: note\ndata: 1\ndata: 2\n\ndata: 3\n\n".replace(b"\n", end)
    expected = [ServerEvent("a", b"1\n2", (b"note",)), ServerEvent("", b"3")]
    assert sse(*pieces(body, size)) == expected


def test_a_cr_at_the_end_of_a_piece_gives_its_event_at_once():
    reader = SSEReader()
    assert data(reader.feed(b"data: 1\r\n\r")) == [b"1"]
    assert data(reader.feed(b"\ndata: 2\r\n\r\n")) == [b"2"]


def test_an_event_is_given_by_the_piece_that_completes_it():
    reader = SSEReader()
    assert data(reader.feed(b"data: 1\n\ndata: 2\n\nda")) == [b"1", b"2"]
    assert data(reader.feed(b"ta: 3\n")) == []
    assert data(reader.feed(b"\n")) == [b"3"]


def test_a_piece_that_looks_like_whole_events_may_be_the_rest_of_one():
    assert sse(b"event: a\n", b"data: 1\n\n") == [ServerEvent("a", b"1")]
    assert sse(b"data: 1\n", b"data: 2\n\ndata: 3\n\n") == [ServerEvent("", b"1\n2"), ServerEvent("", b"3")]
    assert sse(b"id: ", b"data: 1\n\ndata: 2\n\n") == [ServerEvent("", b"2")]


def test_the_name_is_of_its_event_alone():
    assert sse(b"event: error\ndata: 1\n\ndata: 2\n\nevent: a\n\ndata: 3\n\n") == [
        ServerEvent("error", b"1"),
        ServerEvent("", b"2"),
        ServerEvent("", b"3"),
    ]


def test_comments_stay_with_their_event_and_empty_ones_are_left_out():
    body = b": keep-alive\n\n:\ndata:1\n\nid:2\nevent:error\n:HTTP_STATUS/429\n: x\ndata:2\n\ndata:3\n\n"
    assert sse(body) == [
        ServerEvent("", b"1"),
        ServerEvent("error", b"2", (b"HTTP_STATUS/429", b"x")),
        ServerEvent("", b"3"),
    ]


def test_comments_between_events_are_no_events():
    assert data(sse(b": ping\n\n", b"data: 1\n\n: ping\n\ndata: 2\n\n", b":\n\n: bye\n")) == [b"1", b"2"]


def test_other_fields_are_ignored():
    assert sse(b"id: 1\nretry: 9\nDATA: x\n data: y\ndatax: z\ndata: 1\n<p>\n\n") == [ServerEvent("", b"1")]


def test_a_byte_order_mark_is_dropped_at_the_start_and_there_alone():
    body = b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\ndata: 3\n\n"
    for size in (1, 2, 3, 4, 100):
        assert data(sse(*pieces(body, size))) == [b"1", b"3"]
    assert data(sse(b"data: 1\n\n", b"\xef\xbb\xbfdata: 2\n\n")) == [b"1"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r"])
def test_an_event_the_body_ends_in_is_given_at_the_end(end):
    reader = SSEReader()
    assert data(reader.feed(b"data: 1\n\nevent: last\ndata: 2" + end)) == [b"1"]
    assert reader.close() == [ServerEvent("last", b"2")]
    assert reader.close() == []


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b": bye", b"event: x", b"\xef\xbb", b"dat"])
def test_a_body_without_data_has_no_events(body):
    assert sse(body) == []


def test_the_end_mark_is_an_event_like_any_other():
    assert data(sse(b'data: {"a":1}\n\ndata: [DONE]\n\n')) == [b'{"a":1}', b"[DONE]"]


# SSE: bare JSON in mid-stream.


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("wrapped", [False, True])
def test_bare_json_between_events_is_an_event_of_its_own(end, size, wrapped):
    bare = b"[" + GEMINI_ERROR + b"\n]" if wrapped else GEMINI_ERROR
    body = b'data: {"n": 1}\n\n' + bare + b'\ndata: {"n": 2}\n\n'
    got = sse(*pieces(body.replace(b"\n", end), size))
    assert [orjson.loads(event.data) for event in got] == [{"n": 1}, orjson.loads(bare), {"n": 2}]
    assert {event.event for event in got} == {""}


def test_bare_json_is_given_with_its_last_bracket():
    reader = SSEReader()
    assert reader.feed(GEMINI_ERROR[:-1]) == []
    assert data(reader.feed(b"}")) == [GEMINI_ERROR]
    assert reader.close() == []


def test_bare_json_does_not_take_along_the_event_before_it():
    assert sse(b"event: a\ndata: 1\n{}\ndata: 2\n\n") == [
        ServerEvent("a", b"1"),
        ServerEvent("", b"{}"),
        ServerEvent("", b"2"),
    ]


def test_bare_json_keeps_the_comments_before_it_and_not_the_name():
    assert sse(b":HTTP_STATUS/429\nevent:error\n{}\n") == [ServerEvent("", b"{}", (b"HTTP_STATUS/429",))]


def test_bare_json_that_does_not_end_is_given_at_the_end():
    assert data(sse(b'data: 1\n\n{"error":\n\n', b'"}')) == [b"1", b'{"error":\n\n"}']


# One JSON value a line.


def test_lines_end_at_lf_alone_with_or_without_cr():
    line = orjson.dumps({"text": AWKWARD_TEXT + "\x0b\x0c\x1c\x1d\x1e"})
    raw = b'{"a":\r1}'
    assert data(read(NDJSONReader(), line + b"\n" + raw + b"\r\n" + line + b"\n")) == [line, raw, line]


def test_blank_lines_are_skipped_and_the_last_line_end_may_be_missing():
    assert data(read(NDJSONReader(), b'\n\r\n {"a":1}\n\n \t\n{"b":2}')) == [b' {"a":1}', b'{"b":2}']
    assert read(NDJSONReader(), b'{"a":1}\r\n\r\n') == [ServerEvent("", b'{"a":1}')]
    assert data(read(NDJSONReader(), b'{"a":1}\r')) == [b'{"a":1}']


def test_a_line_is_given_by_the_piece_that_ends_it():
    reader = NDJSONReader()
    assert data(reader.feed(b"1\n2")) == [b"1"]
    assert data(reader.feed(b"3")) == []
    assert data(reader.feed(b"\n4\n5")) == [b"23", b"4"]
    assert data(reader.close()) == [b"5"]
    assert reader.close() == []


# A JSON array sent piecewise.


def test_an_element_is_given_with_its_last_bracket():
    reader = JSONArrayReader()
    assert data(reader.feed(b'[{"n": 1}')) == [b'{"n": 1}']
    assert data(reader.feed(b'\r\n,\r\n{"n":')) == []
    assert data(reader.feed(b" 2}")) == [b'{"n": 2}']
    assert data(reader.feed(b"\r\n]")) == []
    assert reader.close() == []


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_brackets_and_quotes_in_strings_are_text(size):
    elements = [{"a": '}]"\\', "b": [[{}], "\\\\"]}, {"\\": "[{"}, []]
    got = data(read(JSONArrayReader(), *pieces(orjson.dumps(elements), size)))
    assert [orjson.loads(each) for each in got] == elements


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_elements_need_not_be_objects(size):
    body = b' [1, "a,]b" ,null,\n[2,[3]],-4.5e6 ]\n'
    assert data(read(JSONArrayReader(), *pieces(body, size))) == [
        b"1",
        b'"a,]b"',
        b"null",
        b"[2,[3]]",
        b"-4.5e6",
    ]


@pytest.mark.parametrize("body", [b"", b" \n", b"[]", b"[ ", b"[\r\n]\r\n"])
def test_an_empty_array_has_no_events(body):
    assert read(JSONArrayReader(), body) == []


def test_an_object_instead_of_the_array_is_the_only_event():
    assert data(read(JSONArrayReader(), b"\n", GEMINI_ERROR + b"\n")) == [GEMINI_ERROR]


def test_an_array_that_is_cut_off_gives_its_last_part_at_the_end():
    assert data(read(JSONArrayReader(), b'[{"a":1},{"b":')) == [b'{"a":1}', b'{"b":']


@pytest.mark.parametrize("body", [b"<html></html>", b"}", b"1}2"])
def test_what_is_no_json_at_all_is_still_given(body):
    assert data(read(JSONArrayReader(), body[:1], body[1:])) == [body]


# All of them.

LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b""])
SSE_LINES = st.sampled_from(
    [
        b"data: 1",
        b"data:2",
        b"data: " + orjson.dumps({"text": AWKWARD_TEXT}),
        b"data",
        b"event: a",
        b"event: \xff",
        b": note",
        b":",
        b"id: 1",
        b"\xef\xbb\xbf",
        b"\xef\xbbdata: 3",
        b"{",
        b"}",
        b'{"a": "}',
        b'"]',
        b'[{"b": "\\',
        b'"}]',
        b"[]",
        b"<p>",
    ]
)
JSON_PARTS = st.sampled_from(
    [b"[", b"]", b"{", b"}", b",", b'"', b"\\", b" ", b"\r\n", b"a", b"1", b'{"a":1}', '"é"'.encode()]
)
BODIES = {
    SSEReader: st.lists(st.tuples(SSE_LINES, LINE_ENDS)).map(lambda rows: b"".join(map(b"".join, rows))),
    NDJSONReader: st.lists(st.sampled_from([b"1", b'{"a":2}', b"\r", b"\n", b" ", b"\n\n"])).map(b"".join),
    JSONArrayReader: st.lists(JSON_PARTS, max_size=40).map(b"".join),
}


@pytest.mark.parametrize("reader", READERS)
@given(draw=st.data())
@settings(max_examples=300, deadline=None)
def test_the_events_do_not_depend_on_where_the_body_is_cut(reader, draw):
    body = draw.draw(BODIES[reader])
    whole = outcome(reader(), [body])
    assert outcome(reader(), cut(body, draw.draw(st.lists(st.integers(0, 10_000), max_size=8)))) == whole
    assert outcome(reader(), pieces(body, 1)) == whole


def by_the_book(body: bytes) -> list[tuple[str, str]]:
    """The standard's algorithm, word for word, for a body that is text."""
    events, name, lines = [], "", []
    for line in body.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                events.append((name, "\n".join(lines)))
            name, lines = "", []
        elif field == "event":
            name = value
        elif field == "data":
            lines.append(value)
    return events


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["data", "event", "id", "", "other"]),
            st.sampled_from(["", ":", ": ", ":  "]),
            st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=5),
            st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\n\n\n"]),
        )
    ),
    size=st.integers(1, 40),
)
@example(rows=[("data", ": ", "1", "\n\n\n"), ("data", ": ", "2", "\n\n")], size=40)
@example(rows=[("data", ": ", "1", "\n"), ("data", ": ", "2", "\n\n"), ("data", ": ", "3", "\n\n")], size=40)
@settings(max_examples=300, deadline=None)
def test_sse_is_read_as_the_standard_says(rows, size):
    body = ("".join(map("".join, rows)) + "\n\n").encode()
    if any(line[:1] in (b"{", b"[") for line in body.replace(b"\r", b"\n").split(b"\n")):
        return
    body = body.removeprefix(b"\xef\xbb\xbf")
    got = [(event.event, event.data.decode()) for event in sse(*pieces(body, size))]
    assert got == by_the_book(body)


@given(texts=st.lists(st.text(min_size=1), min_size=1), size=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_any_text_survives_in_every_format(texts, size):
    texts = [*texts, AWKWARD_TEXT]
    values = [orjson.dumps({"text": text.encode(errors="replace").decode()}) for text in texts]
    bodies = {
        SSEReader: b"".join(b"data: %s\r\n\r\n" % value for value in values),
        NDJSONReader: b"\n".join(values),
        JSONArrayReader: b"[" + b"\r\n,\r\n".join(values) + b"]",
    }
    for reader, body in bodies.items():
        assert data(read(reader(), *pieces(body, size))) == values


@pytest.mark.parametrize(
    ("reader", "body"),
    [(SSEReader, b'data: "\xff"\n\n'), (NDJSONReader, b'"\xff"\n'), (JSONArrayReader, b'["\xff"]')],
)
@pytest.mark.parametrize("size", [1, 100])
def test_invalid_utf8_in_data_is_for_orjson_to_refuse(reader, body, size):
    (event,) = read(reader(), *pieces(body, size))
    assert event.data == b'"\xff"'
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(event.data)


def test_an_event_name_that_is_not_utf8_is_refused_after_the_events_before_it():
    reader = SSEReader()
    assert data(reader.feed(b"data: 1\n\nevent: \xff\ndata: 2\n\n")) == [b"1"]
    for _ in range(2):
        with pytest.raises(MalformedStreamError, match=r"\\xff") as caught:
            reader.feed(b"data: 3\n\n")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)
    with pytest.raises(MalformedStreamError):
        reader.close()


@pytest.mark.parametrize(
    ("reader", "body"),
    [
        (SSEReader, b"data: 1\n\ndata: " + b"x" * 2000),
        (SSEReader, b"data: 1\n\nother: " + b"x" * 2000),
        (SSEReader, b"data: 1\n\n" + b"data: x\n" * 100),
        (SSEReader, b"data: 1\n\n" + b"data\n" * 100),
        (SSEReader, b"data: 1\n\n" + b": x\n" * 100),
        (SSEReader, b'data: 1\n\n["' + b"x\n" * 1000),
        (NDJSONReader, b"1\n" + b"x" * 2000),
        (JSONArrayReader, b'[1,"' + b"x" * 2000),
    ],
)
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_what_does_not_end_is_refused_before_it_fills_the_memory(monkeypatch, reader, body, size):
    monkeypatch.setattr(_sse, "MAX_LINE_BYTES", 1000)
    reader = reader()
    events = []
    with pytest.raises(MalformedStreamError, match="1000 bytes"):
        for chunk in [*pieces(body, size), b""]:
            events += reader.feed(chunk)
    assert data(events) == [b"1"]


def test_long_lines_are_read_up_to_64_mib():
    assert MAX_LINE_BYTES == 64 * 1024 * 1024
    reader = SSEReader()
    piece = b"x" * (1024 * 1024)
    for chunk in (b"data: ", *[piece] * 63):
        assert reader.feed(chunk) == []
    (event,) = reader.feed(b"\n\n")
    assert len(event.data) == 63 * len(piece)
    with pytest.raises(MalformedStreamError):
        for _ in range(65):
            reader.feed(piece)


@pytest.mark.parametrize(
    ("reader", "start", "end", "expected"),
    [
        (SSEReader, b"data: ", b"\n\n", b"%s"),
        (SSEReader, b'["', b'"]', b'["%s"]'),
        (NDJSONReader, b'"', b'"\n', b'"%s"'),
        (JSONArrayReader, b'["', b'"]', b'"%s"'),
    ],
)
def test_a_megabyte_in_single_bytes_is_no_trouble(reader, start, end, expected):
    """Copying or searching at each piece what is there already would take longer than a test may."""
    text = b"x" * 1_000_000
    reading = reader()
    feed = reading.feed
    for chunk in (start, *[b"x"] * len(text)):
        if feed(chunk):
            raise AssertionError("given before its end")
    got = feed(end) + reading.close()
    assert data(got) == [expected.replace(b"%s", text)]


# Recorded answers.

STREAMS = sorted(WIRE.rglob("*.sse")) + sorted(WIRE.rglob("*.ndjson"))


@pytest.mark.parametrize("file", STREAMS, ids=[f"{file.parent.name}-{file.stem}" for file in STREAMS])
def test_recorded_streams_are_json_throughout(file):
    reader = {".sse": SSEReader, ".ndjson": NDJSONReader}[file.suffix]
    body = file.read_bytes()
    events = read(reader(), body)
    assert [orjson.loads(event.data) for event in events if event.data != b"[DONE]"]
    assert read(reader(), *pieces(body, 1)) == events


def test_the_recorded_error_of_dashscope_comes_with_its_status():
    events = sse((WIRE / "dashscope" / "error-stream-event.sse").read_bytes())
    assert [event.event for event in events] == ["result"] * (len(events) - 1) + ["error"]
    assert events[-1].comments[0].startswith(b"HTTP_STATUS/")
    assert orjson.loads(events[-1].data)["code"]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(_sse).failed == 0
