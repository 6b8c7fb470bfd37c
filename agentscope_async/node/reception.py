"""The accepting side's book of sessions."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from hmac import compare_digest
from secrets import token_hex
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from . import decoding
from ._violation import Violation
from .events import CloseLink, Event, State
from .frames import MAX_HELLO_BYTES, CloseCode, FrameError, Hello
from .session import Session

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["Admission", "Reception"]


Ended: TypeAlias = tuple[Session, list[Event]]
"""A session that is over, with its last events."""


class Admission(NamedTuple):
    """What a hello led to.

    Attributes:
        session: the one the link belongs to from now on; None: close it as ``refusal`` says.
        events: of that session.
        ended: sessions this one takes the place of, with their last events.
        is_takeover: the session had another link, which is to be closed as replaced (4009), unread.
    """

    session: Session | None
    events: list[Event] = []  # noqa: RUF012  # never changed
    ended: Iterable[Ended] = ()
    is_takeover: bool = False
    refusal: CloseLink | None = None


SESSIONS_PER_NODE = 64
"""A node that dials by several URLs has a session for each."""


class Reception:
    """The accepting side's book of sessions: those of the newest incarnation of each node that dials."""

    def __init__(self, settings: Settings, *, max_nodes: int = 1024, reserved: Collection[str] = ()) -> None:
        """Answer hellos as ``settings`` say; remember at most ``max_nodes`` other nodes.

        ``reserved`` are names that nobody may take but who proves them.
        """
        self.settings = settings
        self._reserved = frozenset(reserved)
        self.max_nodes = max_nodes
        self._nodes: OrderedDict[str, _Node] = (
            OrderedDict()
        )  # by name, the last to start a session at the end
        self._ended: OrderedDict[str, deque[str]] = OrderedDict()  # incarnations known to be over, by node

    @property
    def sessions(self) -> list[Session]:
        """All that are not over."""
        return [session for node in self._nodes.values() for session in node.living()]

    def admit(self, data: bytes, now: float, *, identity: str = "") -> Admission:
        """Read the first message of a link and find or make its session.

        Args:
            data: the message.
            now: the time.
            identity: the name of the node that the dialer's token proved, "" if it proves none.
        """
        try:
            hello = self._read_hello(data, identity)
            session = self._find(hello)
        except Violation as violation:
            return Admission(None, refusal=CloseLink(violation.code, str(violation)))
        if session is None:
            return self._start(hello, now)
        self._nodes[hello.node].sessions.move_to_end(hello.sid)
        is_takeover = session.state is State.OPEN
        return Admission(session, session.take_link(hello, now, resumed=True), is_takeover=is_takeover)

    def _read_hello(self, data: bytes, identity: str) -> Hello:
        if len(data) > MAX_HELLO_BYTES:
            raise Violation(CloseCode.BAD_FRAME, f"A hello takes at most {MAX_HELLO_BYTES:,} bytes.")
        try:
            hello = decoding.decode(data)
        except FrameError as error:
            code = CloseCode.VERSION if error.code == "version" else CloseCode.BAD_FRAME
            raise Violation(code, str(error)) from None
        if not isinstance(hello, Hello):
            raise Violation(CloseCode.BAD_FRAME, "The first frame must be a hello.")
        if identity and identity != hello.node:
            raise Violation(
                CloseCode.IDENTITY, f"The token is that of node {identity!r}, not {hello.node!r}."
            )
        if not identity and hello.node in self._reserved:
            raise Violation(CloseCode.IDENTITY, f"Node {hello.node!r} has a token of its own.")
        return hello

    def _find(self, hello: Hello) -> Session | None:
        """Return the session to resume, or None to start one.

        Raises:
            Violation: the dialer is an incarnation that is over, or claims what is not so.
        """
        node = self._nodes.get(hello.node)
        if hello.inc in self._ended.get(hello.node, ()) or (
            node is not None and _starts(hello.inc) < _starts(node.inc)
        ):
            raise Violation(CloseCode.FENCED, f"Node {hello.node!r} was started again since.")
        if node is None or node.inc != hello.inc:
            return None
        session = node.sessions.get(hello.sid)
        if session is None or session.is_over:
            return None
        if hello.key is None:
            # Its welcome got lost: then the dialer cannot have the key, and nothing has come from it.
            is_allowed = not session.is_confirmed
        else:
            is_allowed = session.key is not None and compare_digest(session.key, hello.key)
        if not is_allowed and not session.is_confirmed:
            return None  # it took the place of one that is forgotten, and the dialer has not heard so yet
        if not is_allowed:
            raise Violation(CloseCode.IDENTITY, "The key is not that of this session.")
        problem = session.resume_check(hello.rx)
        if problem is not None:
            raise Violation(CloseCode.SEQUENCE, problem)
        return session

    def _start(self, hello: Hello, now: float) -> Admission:
        if hello.key is None and hello.rx:
            return Admission(
                None, refusal=CloseLink(CloseCode.SEQUENCE, "A new session has received nothing.")
            )
        ended = self._make_way(hello)
        session = Session(self.settings, sid=hello.sid, key=token_hex(16), is_dialer=False)
        self._nodes.setdefault(hello.node, _Node(hello.inc)).sessions[hello.sid] = session
        self._nodes.move_to_end(hello.node)
        fresh = Hello(hello.node, hello.inc, hello.sid, None, 0, hello.terms)
        return Admission(session, session.take_link(fresh, now, resumed=False), ended)

    def _make_way(self, hello: Hello) -> list[Ended]:
        """End what a new session takes the place of: older incarnations, and what is too many."""
        ended: list[Ended] = []
        node = self._nodes.get(hello.node)
        if node is not None and node.inc != hello.inc:
            del self._nodes[hello.node]
            self._remember_end(hello.node, node.inc)
            ended += _end(node.living(), "restarted", CloseCode.FENCED, "A newer session took its place.")
        elif node is not None:
            ended += self._make_way_within(node, hello.sid)
        if hello.node not in self._nodes:
            while len(self._nodes) >= self.max_nodes:
                other = self._nodes.pop(self._least_missed())
                ended += _end(other.living(), "flow", CloseCode.FLOW, "Too many nodes.")
        return ended

    def _make_way_within(self, node: _Node, sid: str) -> list[Ended]:
        old = [node.sessions.pop(sid)] if sid in node.sessions else []
        ended = _end(
            [session for session in old if not session.is_over],
            "replaced", CloseCode.REPLACED, "A newer session took its place.",
        )  # fmt: skip
        living = node.living()
        node.sessions = OrderedDict((session.sid, session) for session in living)
        if len(living) >= SESSIONS_PER_NODE:
            del node.sessions[living[0].sid]
            ended += _end(living[:1], "flow", CloseCode.FLOW, "Too many sessions of one node.")
        return ended

    def _least_missed(self) -> str:
        """Return the node to forget: one that is not linked, or has been here longest."""
        for name, node in self._nodes.items():
            if all(session.state is not State.OPEN for session in node.sessions.values()):
                return name
        return next(iter(self._nodes))

    def _remember_end(self, node: str, inc: str) -> None:
        self._ended.setdefault(node, deque(maxlen=16)).append(inc)
        self._ended.move_to_end(node)
        while len(self._ended) > self.max_nodes:
            self._ended.popitem(last=False)


class _Node:
    """A node that dialed: its incarnation and its sessions by sid, the last to be linked at the end."""

    def __init__(self, inc: str) -> None:
        self.inc = inc
        self.sessions: OrderedDict[str, Session] = OrderedDict()

    def living(self) -> list[Session]:
        return [session for session in self.sessions.values() if not session.is_over]


def _end(sessions: Iterable[Session], reason: str, code: CloseCode, text: str) -> list[Ended]:
    return [(session, [CloseLink(code, text), *session.lose(reason)]) for session in sessions]


def _starts(inc: str) -> int:
    return int(inc.partition(".")[0])
