"""The accepting side's book of sessions."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from hmac import compare_digest
from secrets import token_hex
from typing import TYPE_CHECKING, NamedTuple

from . import decoding
from ._violation import Violation
from .events import CloseLink, Event, State
from .frames import MAX_HELLO_BYTES, CloseCode, FrameError, Hello
from .session import Session

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["Admission", "Reception"]


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
    ended: Iterable[tuple[Session, list[Event]]] = ()
    is_takeover: bool = False
    refusal: CloseLink | None = None


class Reception:
    """The accepting side's book of sessions: one for each node that dials, of its newest incarnation."""

    def __init__(self, settings: Settings, *, max_nodes: int = 1024) -> None:
        """Answer hellos as ``settings`` say; remember at most ``max_nodes`` other nodes."""
        self.settings = settings
        self.max_nodes = max_nodes
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # by node, the last to dial at the end
        self._ended: OrderedDict[str, deque[str]] = OrderedDict()  # incarnations known to be over, by node

    @property
    def sessions(self) -> list[Session]:
        """All that are not over."""
        return [session for session in self._sessions.values() if not session.is_over]

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
        return hello

    def _find(self, hello: Hello) -> Session | None:
        """Return the session to resume, or None to start one.

        Raises:
            Violation: the dialer is an incarnation that is over, or claims what is not so.
        """
        session = self._sessions.get(hello.node)
        if hello.inc in self._ended.get(hello.node, ()) or (
            session is not None and _starts(hello.inc) < _starts(session.peer_inc)
        ):
            raise Violation(CloseCode.FENCED, f"Node {hello.node!r} was started again since.")
        if session is None or session.is_over or session.sid != hello.sid or session.peer_inc != hello.inc:
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
        ended = self._end(hello)
        session = Session(self.settings, sid=hello.sid, key=token_hex(16), is_dialer=False)
        self._sessions[hello.node] = session
        fresh = Hello(hello.node, hello.inc, hello.sid, None, 0, hello.terms)
        return Admission(session, session.take_link(fresh, now, resumed=False), ended)

    def _end(self, hello: Hello) -> list[tuple[Session, list[Event]]]:
        """End the node's last session, and the longest silent one of all when there are too many."""
        ended: list[tuple[Session, list[Event]]] = []
        old = self._sessions.pop(hello.node, None)
        if old is not None and old.peer_inc != hello.inc:
            self._remember_end(hello.node, old.peer_inc)
        if old is not None and not old.is_over:
            reason, code = "replaced", CloseCode.REPLACED
            if old.peer_inc != hello.inc:
                reason, code = "restarted", CloseCode.FENCED
            ended.append((old, [CloseLink(code, "A newer session took its place."), *old.lose(reason)]))
        while len(self._sessions) >= self.max_nodes:
            node = next((node for node, one in self._sessions.items() if one.state is not State.OPEN), None)
            if node is None:
                node = next(iter(self._sessions))
            other = self._sessions.pop(node)
            ended.append((other, [CloseLink(CloseCode.FLOW, "Too many nodes."), *other.lose("flow")]))
        return ended

    def _remember_end(self, node: str, inc: str) -> None:
        self._ended.setdefault(node, deque(maxlen=16)).append(inc)
        self._ended.move_to_end(node)
        while len(self._ended) > self.max_nodes:
            self._ended.popitem(last=False)


def _starts(inc: str) -> int:
    return int(inc.partition(".")[0])
