"""What of this machine's files the code in the sandbox may read."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from ..errors import ConfigError

__all__ = [
    "Bind",
    "SandboxUnavailable",
    "needs_root_to_reach",
    "options_for",
    "packages_view",
    "system_view",
    "tool",
]

PACKAGES = Path("/packages")
"""Where the granted packages are, inside; ``_sandbox_init`` knows it, too."""

_SYSTEM = (
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
)
"""Programs, libraries and time zones. Not all of ``/usr``: images keep applications in ``/usr/src``."""

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)")


class SandboxUnavailable(Exception):  # never leaves this package
    """No sandbox can be had here; the text says what to install or to allow."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory to be shown read-only, or a directory to be shown empty.

    Attributes:
        source: where it is.
        target: where it is shown.
        is_interpreter: it is the program that runs the code.
        is_hidden: what is in it is not shown.
    """

    source: Path
    target: Path
    is_interpreter: bool = False
    is_hidden: bool = False


def tool(name: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        SandboxUnavailable: it is not installed, or there is none for this system.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(
            f"The sandbox is made of Linux namespaces, and this is {sys.platform}. "
            f"Use use_docker=True, or a Linux machine. Nothing was run."
        )
    path = shutil.which(name)
    if path is None:
        raise SandboxUnavailable(
            f"The sandbox needs {name!r}, which is not installed: apt-get install {package}. Nothing was run."
        )
    return path


@cache
def system_view() -> tuple[Bind, ...]:
    """Return the system's programs and libraries, the interpreter and its standard library."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sys.base_prefix, "lib").resolve()
    shown = [Path(path) for path in _SYSTEM if os.path.lexists(path)]
    if not any(library.is_relative_to(path) for path in shown):
        shown.append(library)
    binds = [Bind(path, path) for path in shown]
    binds += [Bind(path, path, is_hidden=True) for path in _installed_packages() if path.is_dir()]
    return (*binds, Bind(python, python, is_interpreter=True))


def _installed_packages() -> list[Path]:
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    found = {Path(sysconfig.get_path(kind, vars=base)) for kind in ("purelib", "platlib")}
    return sorted({*found, Path("/usr/lib/python3/dist-packages")})


@cache
def packages_view(names: tuple[str, ...]) -> tuple[Bind, ...]:
    """Return the files of installed distributions, and of those they require, as far as installed.

    Raises:
        ConfigError: one of them is not installed here, or not as files.
    """
    entries: dict[str, Bind] = {}
    waiting = list(names)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):
            if name in names:
                raise ConfigError(f"packages names {name!r}, which is not installed here.") from None
            continue
        found = _top_entries(distribution)
        if not found and name in names:
            raise ConfigError(f"Package {name!r} is not installed as files (editable?), and cannot be shown.")
        entries |= {bind.target.name: bind for bind in found}
        waiting += _required(distribution.requires or ())
    return tuple(entries.values())


def _top_entries(distribution: metadata.Distribution) -> list[Bind]:
    """Return the packages and modules of a distribution, and not the directory they are installed in."""
    names = {file.parts[0] for file in distribution.files or () if not file.is_absolute()}
    names -= {"..", "__pycache__"}
    root = Path(str(distribution.locate_file("")))
    paths = [(root / name).resolve() for name in sorted(names) if not name.endswith(".pth")]
    return [Bind(path, PACKAGES / path.name) for path in paths if path.exists()]


def _required(requirements: Iterable[str]) -> list[str]:
    """Return the names of what is required without an extra, whether or not its other marker holds."""
    plain = [text for text in requirements if "extra ==" not in text.replace("extra==", "extra ==")]
    return [match[1] for text in plain if (match := _REQUIREMENT.match(text))]


def options_for(binds: Sequence[Bind], *, is_shown_already: bool = False) -> list[str]:
    """Return bubblewrap's options for showing them, perhaps where another one shows them at their targets."""
    options: list[str] = []
    made: set[Path] = set()
    for bind in binds:
        for parent in reversed(bind.target.parents[:-1]):
            if parent not in made and not any(parent.is_relative_to(done.target) for done in binds):
                made.add(parent)
                options += ["--dir", str(parent)]  # else bubblewrap makes it for its own user only
        options += _showing(bind, bind.target if is_shown_already else bind.source)
    return options


def _showing(bind: Bind, source: Path) -> list[str]:
    if bind.is_hidden:
        return ["--tmpfs", str(bind.target), "--remount-ro", str(bind.target)]
    if bind.source.is_symlink():
        return ["--symlink", str(bind.source.readlink()), str(bind.target)]
    return ["--ro-bind", str(source), str(bind.target)]


def needs_root_to_reach(path: Path) -> bool:
    """Whether a directory on the way to this path lets its owner through only."""
    return any(not directory.stat().st_mode & stat.S_IXOTH for directory in path.parents)
