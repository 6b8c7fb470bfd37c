"""Running Python code that a model wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from ..logging import get_logger
from ._marks import marked
from .response import ServiceResponse

__all__ = ["MAX_CODE_BYTES", "execute_python_code"]

MAX_CODE_BYTES = 16 << 20
"""The longest source text that is run."""


def _leaves_the_sandbox(presets: Mapping[str, Any]) -> bool:
    return bool(presets.get("unsafe_local") or presets.get("use_docker"))


@marked(
    dangerous=_leaves_the_sandbox,
    granted=(
        *("timeout", "use_docker", "maximum_memory_bytes"),
        *("packages", "files", "return_files", "unsafe_local"),
    ),
    ends_itself=True,
)
async def execute_python_code(
    code: str,
    timeout: float = 300,
    use_docker: bool | str | None = None,
    maximum_memory_bytes: int | None = None,
    *,
    packages: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    return_files: bool = False,
    unsafe_local: bool = False,
) -> ServiceResponse:
    """Run Python code and return what it prints. Use print(...) for every result you want to see.

    It runs in a sandbox of bubblewrap's, on Linux only, and where there is none it does not run: the
    response says what to install. Limits: ``timeout`` on the wall and for each process's CPU, memory of all
    processes together (looked at 50 times a second, so that it may be exceeded for a moment), 64
    processes and threads, 64 MiB and 10,000 files, 1 MiB of output. All processes have ended when this
    returns or is cancelled, and all files are gone.

    Args:
        code: The whole Python program, as plain source text. It has the standard library, no network,
            and starts in an empty directory; nothing is kept from one call to the next.
        timeout: Seconds it may take, from its start on.
        use_docker: True or the name of an image runs it in a container of Docker's, without a network, too.
        maximum_memory_bytes: Memory of all its processes; None is 512 MiB.
        packages: Names of installed distributions it may import, for example ``("numpy",)``; those they
            require come with them. They are shown read-only, and nothing else of ``site-packages`` is.
        files: Files to put into its directory first: relative path -> content.
        return_files: Return the files it wrote or changed, too, 1,000 at most and 32 MiB in all.
        unsafe_local: Run it without any sandbox, with all rights of this program. Each such run
            is logged as a warning.

    Returns:
        On success what it wrote to standard output; with ``return_files`` a dict of ``output``
        and ``files`` (relative path -> bytes). If it ended with an exception, an exit code other than
        0, or at a limit: its output, a newline, and the traceback or the reason.

    Raises:
        ConfigError: options that are not sensible, or not together.
    """
    memory_bytes = _checked(timeout, maximum_memory_bytes)
    if isinstance(packages, str):
        raise ConfigError(f"packages is a list of names, such as [{packages!r}].")
    if any(not isinstance(content, bytes) for content in (files or {}).values()):
        raise ConfigError("The contents of files= are bytes; of a text: text.encode().")
    is_elsewhere = bool(use_docker) or unsafe_local
    if is_elsewhere and (packages or files or return_files):
        raise ConfigError("packages, files and return_files are for the sandbox only.")
    if use_docker and unsafe_local:
        raise ConfigError("Choose one of use_docker and unsafe_local.")
    try:
        source = code.encode()
    except UnicodeEncodeError as error:
        return ServiceResponse.error(error)
    if len(source) > MAX_CODE_BYTES:
        return ServiceResponse.error(f"The code is longer than {MAX_CODE_BYTES:,} bytes; nothing was run.")
    if use_docker:
        return await _in_docker(source, use_docker, timeout, memory_bytes)
    if unsafe_local:
        return await _unprotected(source, timeout, memory_bytes)
    return await _in_sandbox(
        source, timeout, memory_bytes, packages=packages, files=files, return_files=return_files
    )


def _checked(timeout_s: float, memory_bytes: int | None) -> int:
    from ._sandbox import DEFAULT_MEMORY_BYTES

    if not 0 < timeout_s < 1e9:
        raise ConfigError(f"timeout is {timeout_s!r}; give seconds, more than 0.")
    if memory_bytes is None:
        return DEFAULT_MEMORY_BYTES
    if memory_bytes < 1:
        raise ConfigError(f"maximum_memory_bytes is {memory_bytes!r}; give a number above 0, or None.")
    return memory_bytes


async def _in_sandbox(
    source: bytes, timeout_s: float, memory_bytes: int, *, return_files: bool, **options: Any
) -> ServiceResponse:
    from ._sandbox import MAX_INODES, SandboxUnavailable, run_in_sandbox

    try:
        ran = await run_in_sandbox(
            source, timeout_s=timeout_s, memory_bytes=memory_bytes, return_files=return_files, **options
        )
    except SandboxUnavailable as error:
        return ServiceResponse.error(str(error))
    reasons = {
        "memory": f"MemoryError: it used more than {memory_bytes:,} bytes of memory and was stopped",
        "inodes": f"OSError: it made more than {MAX_INODES:,} files and was stopped",
        "time": _timed_out(timeout_s),
        "": "It was stopped: process 1 of its sandbox was ended",
    }
    kind, _, number = ran.verdict.partition(" ")
    status = -int(number) if kind == "signal" else int(number or 0)
    reason = _stopped(ran.ended.stopped, timeout_s) or reasons.get(kind) or _ended_with(status)
    if reason:
        return _failure(ran.ended.stdout, ran.ended.stderr, reason)
    if not return_files:
        return ServiceResponse.success(ran.ended.stdout)
    more = f"\n[{ran.left_out:,} more files were too many or too large to return]" if ran.left_out else ""
    return ServiceResponse.success({"output": ran.ended.stdout + more, "files": ran.files})


async def _in_docker(
    source: bytes, use_docker: bool | str, timeout_s: float, memory_bytes: int
) -> ServiceResponse:
    from ._sandbox_docker import DOCKER_IMAGE, DockerUnavailable, run_in_docker

    image = use_docker if isinstance(use_docker, str) else DOCKER_IMAGE
    try:
        ended = await run_in_docker(source, image=image, timeout_s=timeout_s, memory_bytes=memory_bytes)
    except DockerUnavailable as error:
        return ServiceResponse.error(str(error))
    return _response(ended, timeout_s)


async def _unprotected(source: bytes, timeout_s: float, memory_bytes: int) -> ServiceResponse:
    from ._sandbox_local import LocalUnavailable, run_unprotected

    get_logger().warning("code_without_sandbox", option="unsafe_local=True", code_bytes=len(source))
    try:
        ended = await run_unprotected(source, timeout_s=timeout_s, memory_bytes=memory_bytes)
    except (LocalUnavailable, OSError) as error:
        return ServiceResponse.error(error)
    return _response(ended, timeout_s)


def _response(ended: Any, timeout_s: float) -> ServiceResponse:
    if reason := _stopped(ended.stopped, timeout_s) or _ended_with(ended.status):
        return _failure(ended.stdout, ended.stderr, reason)
    return ServiceResponse.success(ended.stdout)


def _stopped(limit: str | None, timeout_s: float) -> str:
    from ._sandbox_process import MAX_OUTPUT_BYTES

    if limit == "time":
        return _timed_out(timeout_s)
    return f"It wrote more than {MAX_OUTPUT_BYTES:,} bytes, was cut there and stopped" if limit else ""


def _timed_out(timeout_s: float) -> str:
    return f"TimeoutError: timed out\nIt was stopped after {timeout_s:g} s"


def _ended_with(status: int) -> str:
    """Return how a process failed, or nothing for exit code 0."""
    import signal

    if status >= 0:
        return f"exit code {status}" if status else ""
    try:
        return f"It was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"It was ended by signal {-status}"


def _failure(stdout: str, stderr: str, reason: str) -> ServiceResponse:
    is_told = stderr.strip() and reason == "exit code 1"  # the usual end, after a traceback
    told = stderr if is_told else f"{stderr}{reason}\n"
    return ServiceResponse.error(f"{stdout}\n{told}")
