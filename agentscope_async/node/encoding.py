"""Writing frames; what leaves is held to the limits of what may arrive, so that nothing is sent in vain."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from ._grammar import bad, bad_target, checked_chain, is_name, is_target
from ._structure import SHORT, check_shape, check_structure
from .decoding import check_fields, checked_identity, read_terms
from .frames import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_PARTS,
    MAX_TEXT,
    MAX_TRACEBACK,
    PART_BYTES,
    REPLY,
    TAIL_BYTES,
    VERSION,
    Failure,
    FrameError,
    Hello,
    Terms,
    Welcome,
)

if TYPE_CHECKING:
    from ..message.msg import Texts

__all__ = [
    "check_outgoing", "check_settings", "check_target", "encode", "encode_ask", "encode_bye",
    "encode_failure", "encode_hello", "encode_message", "encode_parts", "encode_reply", "encode_tell",
    "encode_welcome", "sendable", "with_tail",
]  # fmt: skip


def encode(fields: dict[str, Any]) -> bytes:
    """Return the frame of these fields.

    Raises:
        FrameError: they have no JSON form, or hold more, or deeper, than a frame may.
    """
    try:
        line = orjson.dumps(fields)
    except TypeError as error:
        raise _unsendable(error) from None
    if len(line) > MAX_ELEMENTS:
        check_structure(line)
    if len(line) > SHORT or line.count(b"{") + line.count(b"[") > MAX_DEPTH:
        check_shape(fields, line)
    return line


def _unsendable(error: TypeError) -> FrameError:
    return FrameError("bad_payload", f"This cannot be sent: {error}.")


def check_target(to: str) -> None:
    """Raise FrameError if ``to`` cannot be addressed."""
    if not is_target(to):
        raise bad_target(to)


def check_outgoing(fields: dict[str, Any]) -> None:
    """Raise FrameError if the other side would refuse these fields."""
    check_fields(fields)


def check_settings(node: str, inc: str, terms: Terms) -> None:
    """Raise FrameError if the other side would refuse a greeting with these."""
    read_terms(_terms(terms))
    checked_identity({"node": node, "inc": inc})


def encode_tell(n: int, to: str, body: Any, *, sender: str | None = None, op: str = REPLY) -> bytes:
    """Return a tell. NaN in ``body`` would become null: what ``Msg.to_dict`` gives has none."""
    check_target(to)
    fields = {"t": "tell", "n": n, "to": to, _kind_of(body): body}
    if sender is not None or op != REPLY:
        _add_source(fields, sender, op)
    return encode(fields)


def encode_ask(
    n: int,
    id: int,
    to: str,
    body: Any,
    *,
    chain: Sequence[str] = (),
    sender: str | None = None,
    op: str = REPLY,
    wants_parts: bool = False,
) -> bytes:
    """Return an ask; its time to live is added by :func:`with_tail` when it is written."""
    check_target(to)
    fields: dict[str, Any] = {"t": "ask", "n": n, "id": id, "to": to, _kind_of(body): body}
    if chain:
        fields["chain"] = checked_chain(list(chain))
    if wants_parts:
        fields["parts"] = True
    if sender is not None or op != REPLY:
        _add_source(fields, sender, op)
    return encode(fields)


def encode_message(n: int, id: int, to: str, texts: Texts) -> bytes:
    """Return an ask that is a message and nothing else, for somebody who was written to before."""
    try:
        return orjson.dumps({"t": "ask", "n": n, "id": id, "to": to, "msg": texts})
    except TypeError as error:
        raise _unsendable(error) from None


def _kind_of(body: Any) -> str:
    """Return the field a body goes into: a tuple is the texts of a message, see ``texts_of``."""
    return "msg" if type(body) is tuple else "body"


def _add_source(fields: dict[str, Any], sender: str | None, op: str) -> None:
    if sender is not None:
        if not is_name(sender):
            raise bad("from", sender, "a name")
        fields["from"] = sender
    if op != REPLY:
        if not is_name(op):
            raise bad("op", op, "a name")
        fields["op"] = op


def encode_reply(n: int, id: int, body: Any, *, last: bool = True) -> bytes:
    """Return a reply, or a part of one."""
    if type(body) is tuple and last:
        try:
            return orjson.dumps({"t": "rep", "n": n, "id": id, "msg": body})
        except TypeError as error:
            raise _unsendable(error) from None
    fields = {"t": "rep", "n": n, "id": id, _kind_of(body): body}
    if not last:
        fields["last"] = False
    return encode(fields)


def encode_failure(n: int, id: int, failure: Failure) -> bytes:
    """Return a reply that is an error; too long texts are cut.

    Raises:
        FrameError: ``code`` is no name, or ``facts`` cannot be sent.
    """
    if not is_name(failure.code):
        raise bad("err.code", failure.code, "a name")
    err: dict[str, Any] = {"code": failure.code, "text": sendable(failure.text, MAX_TEXT)}
    if failure.type:
        err["type"] = sendable(failure.type, 200)
    if failure.traceback:
        err["tb"] = sendable(failure.traceback, MAX_TRACEBACK)
    if failure.facts is not None:
        err["facts"] = failure.facts
    return encode({"t": "rep", "n": n, "id": id, "err": err})


def sendable(text: str, limit: int) -> str:
    """Return the text with at most ``limit`` characters, and without lone surrogates."""
    return text[:limit].encode("utf-8", "replace").decode()


def encode_bye(reason: str, drain_ms: int) -> bytes:
    """Return a farewell."""
    fields = {"t": "bye", "reason": reason, "drain_ms": drain_ms}
    check_outgoing(fields)
    return encode(fields)


def encode_hello(hello: Hello) -> bytes:
    """Return the dialer's first frame."""
    return encode(
        {"t": "hello", "v": [VERSION], "node": hello.node, "inc": hello.inc, "sid": hello.sid,
         "key": hello.key, "rx": hello.rx, **_terms(hello.terms)}
    )  # fmt: skip


def encode_welcome(welcome: Welcome) -> bytes:
    """Return the acceptor's first frame."""
    return encode(
        {"t": "welcome", "v": VERSION, "node": welcome.node, "inc": welcome.inc, "key": welcome.key,
         "rx": welcome.rx, "resumed": welcome.resumed, **_terms(welcome.terms)}
    )  # fmt: skip


def _terms(terms: Terms) -> dict[str, int]:
    return {
        "max_frame": terms.max_frame,
        "max_body": terms.max_body,
        "credit": terms.credit,
        "hb": terms.heartbeat_ms,
    }


def with_tail(line: bytes, left_s: float | None, rx: int | None) -> bytes:
    """Return the frame with what is known only when it is written.

    Args:
        line: the frame.
        left_s: how long its sender still waits.
        rx: what is acknowledged by the way.
    """
    if left_s is not None:
        ttl_ms = round(left_s * 1000) if left_s > 0 else 0
        tail = b',"ttl":%d}' % ttl_ms if rx is None else b',"ttl":%d,"a":%d}' % (ttl_ms, rx)
    elif rx is not None:
        tail = b',"a":%d}' % rx
    else:
        return line
    return line[:-1] + tail if len(line) <= SHORT else b"".join((memoryview(line)[:-1], tail))


def encode_parts(first_n: int, line: bytes, max_frame: int, max_body: int) -> list[bytes]:
    """Cut a frame larger than ``max_frame`` bytes into parts numbered from ``first_n``.

    Raises:
        FrameError: it has more than ``max_body`` bytes, or would need more than MAX_PARTS parts.
    """
    step = (max_frame - PART_BYTES - TAIL_BYTES) // 4 * 3
    limit = min(max_body, step * MAX_PARTS)
    if len(line) > limit:
        raise FrameError(
            "too_large", f"This message takes {len(line):,} bytes and the other node takes at most {limit:,}."
        )
    pieces = [line[start : start + step] for start in range(0, len(line), step)]
    return [
        encode({"t": "part", "n": first_n + i, "id": first_n, "i": i, "of": len(pieces),
                "data": b64encode(piece).decode()})
        for i, piece in enumerate(pieces)
    ]  # fmt: skip
