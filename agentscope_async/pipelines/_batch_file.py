"""The file in which a batch of debates keeps what is finished: JSON lines, one debate each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from ..logging import brief
from ..message import Msg, Usage
from .debate import DebateResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["BatchFile"]

LINE_START = b'{"index":'
TERMS = ("id", "topic", "rounds", "seed")
"""What must agree for a recorded debate to be the one a specification asks for."""


class BatchFile:
    """Debates that ended, on disk; its methods block and belong into a thread.

    Lines are appended whole and synced, so that a process killed at any moment leaves at
    most one torn line, the last. It is cut off when the file is opened again.

    Attributes:
        finished: the line of each debate that came to its end, by index, in the order of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.finished: dict[int, bytes] = {}
        self._terms: dict[int, dict[str, Any]] = {}  # of all that are in the file, failed ones too
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open or create the file and read what is in it.

        Raises:
            ValueError: it holds something else than debates.
            OSError: it cannot be read or written.
        """
        self._file = self.path.open("a+b")
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._cut_off(line, number, end)
                return
            self._note(line, number)
            end += len(line)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()

    def check(self, index: int, terms: Mapping[str, Any]) -> None:
        """Raise ValueError if the file has a debate ``index`` that was held on other terms."""
        for term, recorded in self._terms.get(index, {}).items():
            if recorded != terms[term]:
                raise ValueError(
                    f"{self.path} is the file of another batch: its debate {index} has "
                    f"{term} {recorded!r}, the one to be held {terms[term]!r}. Give another path."
                )

    @property
    def last(self) -> int:
        """The highest index in the file, -1 when it is empty."""
        return max(self._terms, default=-1)

    def take(self, index: int) -> DebateResult:
        """Return a finished debate as it was, and keep it in memory no longer.

        Raises:
            ValueError: the line cannot be read as a debate.
        """
        record = orjson.loads(self.finished.pop(index))
        try:
            verdict = record["verdict"]
            return DebateResult(
                [Msg.from_dict(each) for each in record["messages"]],
                None if verdict is None else Msg.from_dict(verdict),
                Usage(**record["usage"]),
                index=index,
                id=record["id"],
                seed=record["seed"],
                seconds=record["seconds"],
                resumed=True,
            )
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: the record of debate {index} cannot be read: {error}") from error

    def append(self, results: Iterable[tuple[DebateResult, Mapping[str, Any]]]) -> None:
        """Write these results, with their terms, and return when they are on disk."""
        assert self._file is not None
        self._file.write(b"".join(_line(result, terms) for result, terms in results))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _note(self, line: bytes, number: int) -> None:
        try:
            record = orjson.loads(line)
            index = record["index"]
            if type(index) is not int:
                raise TypeError
            self._terms[index] = {term: record[term] for term in TERMS}
            if record["error"] is None:
                self.finished[index] = line
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise self._foreign(number) from error

    def _cut_off(self, torn: bytes, number: int, end: int) -> None:
        # Only what can be a line of ours: the path may be that of some other, precious file.
        if torn.strip(b"\0") and not torn.startswith(LINE_START) and not LINE_START.startswith(torn):
            raise self._foreign(number)
        assert self._file is not None
        self._file.truncate(end)
        os.fsync(self._file.fileno())

    def _foreign(self, number: int) -> ValueError:
        return ValueError(
            f"{self.path}, line {number}, is not a record of a debate: this is not the file of a batch. "
            f"Give another path."
        )


def _line(result: DebateResult, terms: Mapping[str, Any]) -> bytes:
    record = {
        "index": result.index,
        **{term: terms[term] for term in TERMS},
        "messages": [msg.to_dict() for msg in result.messages],
        "verdict": None if result.verdict is None else result.verdict.to_dict(),
        "usage": result.usage._asdict(),
        "error": None if result.error is None else brief(result.error),
        "seconds": result.seconds,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
