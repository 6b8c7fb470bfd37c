"""Somebody swaps a directory and a file for links to the outside while services use them.

``python -m tests.service.link_race 10000`` plays that many rounds in each of the two ways
paths are looked up; the test suite plays fewer.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentscope_async.service import (
    ServiceResponse,
    _kernel,
    create_directory,
    create_file,
    delete_directory,
    delete_file,
    list_directory_content,
    move_directory,
    move_file,
    read_text_file,
    write_json_file,
    write_text_file,
)

SECRET = "outside"
REFILL_AFTER = 5
"""Rounds after which what was deleted and moved is put there again."""


@dataclass
class Outcome:
    """What came of a race: of which calls how many succeeded, how often links were swapped, what got out."""

    calls: int = 0
    done: int = 0
    swaps: int = 0
    escapes: list[str] = field(default_factory=list)


class Attacker(threading.Thread):
    """Swaps ``box`` and ``note`` for links to the outside and back, as fast as it can."""

    def __init__(self, root: Path, outside: Path) -> None:
        super().__init__(name="attacker")
        self.swaps = 0
        self._box, self._note = root / "box", root / "note"
        self._links = {self._box: outside, self._note: outside / "secret"}
        self._has_ended = threading.Event()
        self.pause = threading.Lock()
        """While it is held everything is in its own place."""

    def run(self) -> None:
        while not self._has_ended.is_set():
            for place, target in self._links.items():
                with self.pause:
                    self._swap(place, target)

    def end(self) -> None:
        self._has_ended.set()
        self.join()

    def _swap(self, place: Path, target: Path) -> None:
        aside = place.with_name(f"{place.name}-aside")
        with suppress(OSError):
            place.rename(aside)
            place.symlink_to(target)
            self.swaps += 1
        with suppress(OSError):
            if place.is_symlink():
                place.unlink()
            aside.rename(place)


async def race(rounds: int, top: Path) -> Outcome:
    """Use every service on the swapped names, ``rounds`` times, and say what got out."""
    root, outside = top / "root", top / "outside"
    _furnish(root, "inside")
    _furnish(outside, SECRET)
    before = _contents(outside)
    outcome = Outcome()
    attacker = Attacker(root, outside)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    attacker.start()
    try:
        for number in range(rounds):
            if number % REFILL_AFTER == 0:
                with attacker.pause:
                    _furnish(root, "inside")
            for name, response in await _play(number, root):
                outcome.calls += 1
                outcome.done += response.is_success
                if SECRET in str(response.content):
                    outcome.escapes.append(f"round {number}: {name} told {response.content!r}")
            if _contents(outside) != before:
                outcome.escapes.append(f"round {number}: what is outside has changed: {_contents(outside)}")
                _furnish(outside, SECRET)
                before = _contents(outside)
    finally:
        attacker.end()
        sys.setswitchinterval(interval)
    outcome.swaps = attacker.swaps
    return outcome


async def _play(number: int, root: Path) -> list[tuple[str, ServiceResponse]]:
    """Do all kinds of work at the same time."""
    mine = f"made-{number}"
    work: dict[str, Any] = {
        "read box/secret": read_text_file("box/secret", root=root),
        "read note": read_text_file("note", root=root),
        "list box": list_directory_content("box", root=root),
        "write box/secret": write_text_file("box/secret", "inside", True, root=root),
        "write note": write_text_file("note", "inside", True, root=root),
        "write box/new": write_json_file(f"box/{mine}", {}, root=root),
        "create box/created": create_file(f"box/created-{number}", root=root),
        "create box/directory": create_directory(f"box/{mine}-d/inner", root=root),
        "delete box/victim": delete_file("box/victim", root=root),
        "delete box/tree": delete_directory("box/tree", root=root),
        "move into box": move_file("mine", f"box/{mine}-moved", root=root),
        "move out of box": move_file("box/victim2", mine, root=root),
        "move directory out of box": move_directory("box/tree2", f"{mine}-tree", root=root),
    }
    responses = await asyncio.gather(*work.values())
    return list(zip(work, responses, strict=True))


def _furnish(top: Path, content: str) -> None:
    """Put there what the services are after."""
    names = ["note", "mine", "box/secret", "box/victim", "box/victim2", "box/tree/file", "box/tree2/file"]
    if content == SECRET:
        names = [name.removeprefix("box/") for name in names]
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def _contents(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() if path.is_file() else "" for path in top.rglob("*")}


def main(rounds: int) -> int:
    """Race in both ways, print the outcomes and return how many escapes there were."""
    escapes = 0
    for way in ("openat2", "one name at a time"):
        if way != "openat2":
            _kernel.has_openat2 = lambda: False  # type: ignore[assignment]
            _kernel.rename_new = lambda *names: False  # type: ignore[assignment]
        with tempfile.TemporaryDirectory() as top:
            outcome = asyncio.run(race(rounds, Path(top)))
        escapes += len(outcome.escapes)
        print(
            f"{way}: {rounds:,} rounds, {outcome.calls:,} calls, {outcome.done:,} done, "
            f"{outcome.swaps:,} swaps, {len(outcome.escapes)} escapes"
        )
        for escape in outcome.escapes[:5]:
            print(f"  {escape}")
    return escapes


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)))
