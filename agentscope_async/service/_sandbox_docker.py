"""Code in a container of Docker's, for programs that ask for one.

The client is run as a program: ``docker run``, its options as of Docker 28's reference
(docs.docker.com/reference/cli/docker/container/run). Two things are the daemon's to do: to fetch the image,
which counts to the time limit, and to remove a container whose client was killed while it was being made.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile

from ._sandbox_process import Ended, LimitedProcess

__all__ = ["DOCKER_IMAGE", "DockerUnavailable", "run_in_docker"]

DOCKER_IMAGE = "python:3.12-slim"
"""What ``use_docker=True`` runs; AgentScope v0.0.2's ``python:3.9.12`` gets no more security fixes."""

REMOVED_WITHIN_S = 10.0
"""How long to wait for the daemon to end a container."""

_LIMITS = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "64", "--ulimit", "nofile=128", "--ulimit", "core=0", "--user", "65534:65534"),
    *("--tmpfs", "/tmp:size=64m,nr_inodes=10000,mode=1777", "--shm-size", "16m", "--workdir", "/tmp"),
    *("--log-driver", "none", "--init"),
)
_OWN_FAILURES = range(125, 128)  # docker run's own exit codes: daemon, command not startable, not found


class DockerUnavailable(Exception):  # never leaves this package
    """Docker cannot run the code; the text says why and what to do."""


async def run_in_docker(code: bytes, *, image: str, timeout_s: float, memory_bytes: int) -> Ended:
    """Run Python code in a new container, which is removed before this returns or raises.

    Raises:
        DockerUnavailable: no client, no daemon, or no such image.
    """
    client = shutil.which("docker")
    if client is None:
        raise DockerUnavailable(
            "use_docker needs the program 'docker', which is not installed: apt-get install docker.io. "
            "Without use_docker, bubblewrap is used. Nothing was run."
        )
    with tempfile.TemporaryFile() as source:
        source.write(code)
        source.seek(0)
        container = _Container(client, image, source.fileno(), timeout_s, memory_bytes)
        ended = await container.run()
    if ended.stopped is None and ended.status in _OWN_FAILURES:
        raise DockerUnavailable(
            f"Docker could not run the code: {ended.stderr.strip() or f'exit code {ended.status}'}\n"
            "Is its daemon running, may this user use it, and is the image there? `docker info` tells."
        )
    return ended


class _Container(LimitedProcess):
    def __init__(self, client: str, image: str, source: int, timeout_s: float, memory_bytes: int) -> None:
        self._client = client
        self._name = f"agentscope-{os.urandom(8).hex()}"
        memory = ("--memory", str(memory_bytes), "--memory-swap", str(memory_bytes))
        container = [client, "run", "--rm", "--interactive", "--name", self._name, *_LIMITS, *memory]
        python = ["python", "-I", "-B", "-X", "utf8", "-"]
        super().__init__([*container, "--", image, *python], timeout_s=timeout_s, stdin=source)

    async def kill(self) -> None:
        """Kill the client, then the container, which would go on without it."""
        self.kill_group()
        remove = asyncio.create_task(asyncio.to_thread(self._remove))
        await self.outlast(remove, None)

    def _remove(self) -> None:
        try:
            subprocess.run(
                [self._client, "rm", "--force", self._name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=REMOVED_WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return  # the daemon has gone; so have its containers, or they are its to clear away
