"""Reading frames: bytes of another node in, a checked frame out.

What arrives is checked by hand here, field by field, before anything else sees it: types,
ranges, the grammar of names, size, depth and number of values. Fields nobody knows are
ignored; of a field given twice the last one is both checked and used.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import orjson

from ._grammar import (
    bad,
    bad_target,
    brief,
    checked_chain,
    is_incarnation,
    is_name,
    is_path,
    is_secret,
    is_target,
)
from ._structure import SHORT, check_shape, check_structure
from .frames import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_HOPS,
    MAX_INTEGER,
    MAX_PARTS,
    MAX_TEXT,
    MAX_TRACEBACK,
    MIN_FRAME_BYTES,
    NODE,
    REPLY,
    VERSION,
    Ack,
    Ask,
    Bye,
    Cancel,
    Credit,
    Down,
    Failure,
    Frame,
    FrameError,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Part,
    Probe,
    Reply,
    Spawn,
    Tell,
    Terms,
    Unwatch,
    Watch,
    Welcome,
)

__all__ = ["check_fields", "checked_identity", "decode", "parse", "read", "read_terms", "refuse_rx"]


def decode(line: bytes) -> Frame:
    """Return the frame that ``line`` holds.

    The caller has checked that it is not longer than its limit.

    Raises:
        FrameError: it is none. Where at least its number could be read, the error has it.
    """
    return read(parse(line), line)


def parse(data: bytes) -> Any:
    """Return what a message holds: the fields of a frame, or a list of such, not checked yet.

    Raises:
        FrameError: it is no JSON, or has too many values.
    """
    if len(data) > MAX_ELEMENTS:
        check_structure(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FrameError("bad_json", f"A frame is not JSON: {error}.") from None


def read(fields: Any, line: bytes | None) -> Frame:
    """Return the frame of these fields, and nothing else, that were parsed from ``line``, if that is known.

    Raises:
        FrameError: as :func:`decode`.
    """
    try:
        reader = _READERS[fields["t"]]
    except (TypeError, KeyError):
        raise FrameError("unknown_type", f"No frame is of this type: {brief(fields)}.") from None
    try:
        if line is None or len(line) > SHORT or line.count(b"{") + line.count(b"[") > MAX_DEPTH:
            check_shape(fields, line)
        return reader(fields)
    except FrameError as error:
        _locate(error, fields)
        raise


def refuse_rx(rx: Any) -> NoReturn:
    """Raise FrameError for an acknowledgement that is none."""
    raise bad("a", rx, "a number")


def _read_tell(fields: dict[str, Any]) -> Tell:
    get = fields.get
    n, to, op, sender = get("n"), get("to"), get("op", REPLY), get("from")
    if type(n) is not int or not 0 < n <= MAX_INTEGER:
        raise bad("n", n, "a number")
    if not is_target(to):
        raise bad_target(to)
    if op is not REPLY and not is_name(op):
        raise bad("op", op, "a name")
    if sender is not None and not is_name(sender):
        raise bad("from", sender, "a name")
    return Tell(n, to, _body(fields), sender, op)


def _read_ask(fields: dict[str, Any]) -> Ask:
    get = fields.get
    n, id, to, ttl_ms = get("n"), get("id"), get("to"), get("ttl")
    op, sender, chain, parts = get("op", REPLY), get("from"), get("chain"), get("parts", False)
    if type(n) is not int or not 0 < n <= MAX_INTEGER:
        raise bad("n", n, "a number")
    if type(id) is not int or not 0 < id <= MAX_INTEGER:
        raise bad("id", id, "a number")
    if not is_target(to):
        raise bad_target(to)
    if ttl_ms is not None and (type(ttl_ms) is not int or not 0 <= ttl_ms <= MAX_INTEGER):
        raise bad("ttl", ttl_ms, "milliseconds")
    if op is not REPLY and not is_name(op):
        raise bad("op", op, "a name")
    if sender is not None and not is_name(sender):
        raise bad("from", sender, "a name")
    if type(parts) is not bool:
        raise bad("parts", parts, "true or false")
    path = () if chain is None else checked_chain(chain)
    return Ask(n, id, to, _body(fields), ttl_ms, path, sender, op, parts)


def _read_reply(fields: dict[str, Any]) -> Reply:
    get = fields.get
    n, id, last, err = get("n"), get("id"), get("last", True), get("err")
    if type(n) is not int or not 0 < n <= MAX_INTEGER:
        raise bad("n", n, "a number")
    if type(id) is not int or not 0 < id <= MAX_INTEGER:
        raise bad("id", id, "a number")
    if type(last) is not bool:
        raise bad("last", last, "true or false")
    if err is None:
        return Reply(n, id, _body(fields), None, last)
    if "body" in fields or "msg" in fields:
        raise bad("body", None, "one of body, msg and err")
    if not last:
        raise bad("last", last, "true for an error")
    return Reply(n, id, None, _read_failure(err), True)


def _body(fields: dict[str, Any]) -> Any:
    """Return what is said: a JSON value, or as a tuple what should be the texts of a message."""
    if "msg" not in fields:
        if "body" not in fields:
            raise bad("body", None, "there")
        return fields["body"]
    if "body" in fields:
        raise bad("body", None, "one of body and msg")
    if type(fields["msg"]) is not list:
        raise bad("msg", fields["msg"], "a list of texts")
    return tuple(fields["msg"])


def _read_failure(err: Any) -> Failure:
    if type(err) is not dict:
        raise bad("err", err, "an object")
    code, facts = err.get("code"), err.get("facts")
    if not is_name(code):
        raise bad("err.code", code, "a name")
    if facts is not None and type(facts) is not dict:
        raise bad("err.facts", facts, "an object")
    text, type_ = _text(err, "text", MAX_TEXT), _text(err, "type", 200)
    return Failure(code, text, type_, _text(err, "tb", MAX_TRACEBACK), facts)


def _text(fields: dict[str, Any], field: str, limit: int) -> str:
    value = fields.get(field, "")
    if type(value) is not str or len(value) > limit:
        raise bad(field, value, f"a text of at most {limit:,} characters")
    return value


def _integer(fields: dict[str, Any], field: str, least: int = 1, most: int = MAX_INTEGER) -> int:
    value = fields.get(field)
    if type(value) is not int or not least <= value <= most:
        raise bad(field, value, f"a number from {least} to {most}")
    return value


def _name(fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    if not is_name(value):
        raise FrameError(
            "bad_name", f"Frame field {field!r} is {brief(value)}, not a name: [A-Za-z0-9_.-]{{1,64}}."
        )
    return value


def _ttl(fields: dict[str, Any]) -> int | None:
    return None if fields.get("ttl") is None else _integer(fields, "ttl", 0)


def _read_cancel(fields: dict[str, Any]) -> Cancel:
    return Cancel(_integer(fields, "n"), _integer(fields, "id"))


def _read_watch(fields: dict[str, Any]) -> Watch:
    n, id, ref = _integer(fields, "n"), _integer(fields, "id"), fields.get("ref")
    if not is_target(ref):
        raise bad_target(ref)
    return Watch(n, id, ref)


def _read_unwatch(fields: dict[str, Any]) -> Unwatch:
    return Unwatch(_integer(fields, "n"), _integer(fields, "id"))


def _read_down(fields: dict[str, Any]) -> Down:
    return Down(_integer(fields, "n"), _integer(fields, "id"), _name(fields, "reason"))


def _read_spawn(fields: dict[str, Any]) -> Spawn:
    n, id, kind = _integer(fields, "n"), _integer(fields, "id"), _name(fields, "kind")
    name, cfg = fields.get("name"), fields.get("cfg")
    if not is_target(name):
        raise bad_target(name)
    if type(cfg) is not dict:
        raise bad("cfg", cfg, "an object")
    return Spawn(n, id, kind, name, cfg, _ttl(fields))


def _read_part(fields: dict[str, Any]) -> Part:
    n, id, of = _integer(fields, "n"), _integer(fields, "id"), _integer(fields, "of", 2, MAX_PARTS)
    index, data = _integer(fields, "i", 0, of - 1), fields.get("data")
    if type(data) is not str:
        raise bad("data", data, "a text")
    try:
        return Part(n, id, index, of, b64decode(data, validate=True), _ttl(fields))
    except ValueError:
        raise bad("data", data, "base64") from None


def _read_ack(fields: dict[str, Any]) -> Ack:
    return Ack(_integer(fields, "rx", 0))


def _read_credit(fields: dict[str, Any]) -> Credit:
    target = _name(fields, "to") if "to" in fields else _integer(fields, "id")
    return Credit(target, _integer(fields, "upto"))


def _read_heartbeat(fields: dict[str, Any]) -> Heartbeat:
    return Heartbeat(_integer(fields, "ts", 0))


def _read_heartbeat_reply(fields: dict[str, Any]) -> HeartbeatReply:
    return HeartbeatReply(_integer(fields, "ts", 0))


def _read_probe(fields: dict[str, Any]) -> Probe:
    id, path = _integer(fields, "id"), fields.get("path")
    if not is_path(path, MAX_HOPS):
        raise bad("path", path, f"a list of at most {MAX_HOPS} printable names")
    return Probe(id, tuple(path or ()))


def _read_bye(fields: dict[str, Any]) -> Bye:
    return Bye(_name(fields, "reason"), _integer(fields, "drain_ms", 0))


def read_terms(fields: dict[str, Any]) -> Terms:
    """Return what a greeting says its receiver allows."""
    return Terms(
        max_frame=_integer(fields, "max_frame", MIN_FRAME_BYTES, 2**30),
        max_body=_integer(fields, "max_body", MIN_FRAME_BYTES, 2**31),
        credit=_integer(fields, "credit", 1, 65_536),
        heartbeat_ms=_integer(fields, "hb", 10, 600_000),
    )


def checked_identity(fields: dict[str, Any]) -> tuple[str, str]:
    """Return the node and the incarnation of a greeting."""
    if not is_incarnation(fields.get("inc")):
        raise bad("inc", fields.get("inc"), "an incarnation")
    return _name(fields, "node"), fields["inc"]


def _read_hello(fields: dict[str, Any]) -> Hello:
    versions = fields.get("v")
    if type(versions) is not list or not any(type(v) is int and v == VERSION for v in versions):
        raise FrameError("version", f"This node speaks version {VERSION} only, not {brief(versions)}.")
    node, inc = checked_identity(fields)
    sid, key = fields.get("sid"), fields.get("key")
    if not is_secret(sid) or not (key is None or is_secret(key)):
        raise FrameError("bad_frame", "A session id and its key are 32 hex digits.")
    return Hello(node, inc, sid, key, _integer(fields, "rx", 0), read_terms(fields))


def _read_welcome(fields: dict[str, Any]) -> Welcome:
    if type(fields.get("v")) is not int or fields["v"] != VERSION:
        raise FrameError("version", f"This node speaks version {VERSION}, not {brief(fields.get('v'))}.")
    node, inc = checked_identity(fields)
    key, resumed = fields.get("key"), fields.get("resumed")
    if not is_secret(key):
        raise FrameError("bad_frame", "A session's key is 32 hex digits.")
    if type(resumed) is not bool:
        raise bad("resumed", resumed, "true or false")
    return Welcome(node, inc, key, _integer(fields, "rx", 0), resumed, read_terms(fields))


_READERS: Mapping[str, Callable[[dict[str, Any]], Frame]] = {
    "tell": _read_tell, "ask": _read_ask, "rep": _read_reply, "can": _read_cancel, "wat": _read_watch,
    "unw": _read_unwatch, "dwn": _read_down, "spn": _read_spawn, "part": _read_part, "ack": _read_ack,
    "crd": _read_credit, "hb": _read_heartbeat, "hbr": _read_heartbeat_reply, "prb": _read_probe,
    "bye": _read_bye, "hello": _read_hello, "welcome": _read_welcome,
}  # fmt: skip

_NUMBERED = frozenset({"tell", "ask", "rep", "can", "wat", "unw", "dwn", "spn", "part"})


def _locate(error: FrameError, fields: dict[str, Any]) -> None:
    """Note which frame it was, so that its number can be counted and its asker answered."""
    if fields["t"] not in _NUMBERED:
        return
    error.kind = fields["t"]
    n, id = fields.get("n"), fields.get("id")
    if type(n) is int and 0 < n <= MAX_INTEGER:
        error.number = n
    if type(id) is int and 0 < id <= MAX_INTEGER:
        error.id = id
    if error.kind == "spn":
        error.target = NODE
    elif error.kind in ("tell", "ask") and is_target(fields.get("to")):
        error.target = fields["to"]


def check_fields(fields: dict[str, Any]) -> None:
    """Raise FrameError if these are not the fields of a frame."""
    _READERS[fields["t"]](fields)
