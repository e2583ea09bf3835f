"""AsyncAPI 3.0 files → contracts: every exposed stream of a directory as one immutable snapshot, or every problem."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gateway.catalog.exposure import KEYS, Exposure, parse_exposure
from gateway.catalog.payload_schema import PayloadSchema
from gateway.catalog.problems import Problems, nearest, problem_line
from gateway.catalog.references import References, reference_of
from gateway.catalog.section import Section
from gateway.catalog.source import Node, read_yaml
from gateway.errors import ConfigurationProblems
from gateway.model import Contract

_ROOT_KEYS = ("asyncapi", "id", "info", "defaultContentType", "servers", "channels", "operations", "components")
_INFO_KEYS = ("title", "version", "description", "termsOfService", "contact", "license", "tags", "externalDocs")
_CHANNEL_KEYS = (
    "address",
    "messages",
    "title",
    "summary",
    "description",
    "servers",
    "parameters",
    "tags",
    "externalDocs",
    "bindings",
    "x-gateway",
)
_MESSAGE_KEYS = (
    "name",
    "title",
    "summary",
    "description",
    "contentType",
    "payload",
    "headers",
    "correlationId",
    "examples",
    "traits",
    "bindings",
    "tags",
    "externalDocs",
    "deprecated",
)
_SERVER_KEYS = (
    "host",
    "protocol",
    "protocolVersion",
    "pathname",
    "title",
    "summary",
    "description",
    "variables",
    "security",
    "tags",
    "externalDocs",
    "bindings",
)
_VERSION = re.compile(r"3\.0\.[0-9]+")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(\s*;.*)?")


class Contracts(Mapping[str, Contract]):
    """The contracts by stream name, never changed once made.

    ``digest`` is equal for equal content, whatever the files' names, comments and layout.
    """

    def __init__(self, contracts: Sequence[Contract] = ()) -> None:
        self._by_stream = {contract.stream: contract for contract in sorted(contracts, key=lambda c: c.stream)}
        self.digest = _digest(self._by_stream.values())

    def keeping(self, others: Contracts) -> Contracts:
        """The same contracts, as the very objects of ``others`` where they are equal: readers of those go on as they
        are."""
        return Contracts([others[name] if others.get(name) == one else one for name, one in self.items()])

    def __getitem__(self, stream: str) -> Contract:
        return self._by_stream[stream]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_stream)

    def __len__(self) -> int:
        return len(self._by_stream)


def load_contracts(directory: Path, *, clusters: Collection[str] | None = None) -> Contracts:
    """Read ``directory/streams/*.yaml|*.yml``. Raises ConfigurationProblems with all that is wrong in all files.

    ``clusters`` are the names of the configured Kafka clusters; where given, a contract on another one is a problem.
    """
    problems = Problems()
    streams = directory / "streams"
    if not streams.is_dir():
        raise ConfigurationProblems(
            [
                problem_line(
                    str(streams), "no such directory", allowed="the directory of contracts.dir, with streams/ in it"
                )
            ]
        )
    found = _read_files(contract_files(streams), problems, clusters)
    _check_successors([exposure for _, exposure in found.values()], problems)
    if problems:
        raise ConfigurationProblems(problems.lines)
    return Contracts([contract for contract, _ in found.values()])


def load_contract_files(*paths: Path) -> Contracts:
    """Read these files alone: a successor may be a stream of another file. Raises ConfigurationProblems."""
    problems = Problems()
    found = _read_files(paths, problems, None)
    if problems:
        raise ConfigurationProblems(problems.lines)
    return Contracts([contract for contract, _ in found.values()])


def contract_files(directory: Path) -> list[Path]:
    """The files of a directory that are read as contracts, in order."""
    paths = (path for pattern in ("*.yaml", "*.yml") for path in directory.glob(pattern))
    return sorted(path for path in paths if not path.name.startswith("."))


def _read_files(
    paths: Iterable[Path], problems: Problems, clusters: Collection[str] | None
) -> dict[str, tuple[Contract, Exposure]]:
    found: dict[str, tuple[Contract, Exposure]] = {}
    for path in paths:
        root = read_yaml(path, problems)
        for contract, exposure in _ContractFile(root, problems, clusters).contracts() if root is not None else ():
            first = found.setdefault(contract.stream, (contract, exposure))[0]
            if first is not contract and contract.stream:
                what = f"stream defined twice, first in {first.source}"
                problems.add(contract.source, what, got=contract.stream, allowed="one contract a stream")
    return found


def _check_successors(exposures: Sequence[Exposure], problems: Problems) -> None:
    names = [exposure.stream for exposure in exposures]
    for exposure in exposures:
        others = [name for name in names if name != exposure.stream]
        if exposure.successor and exposure.successor not in others:
            place = exposure.successor_place
            problems.add(place, "x-gateway.successor", got=exposure.successor, choices=others)


class _ContractFile:
    """One AsyncAPI document: its structure as far as it is used here, then its channels."""

    def __init__(self, root: Node, problems: Problems, clusters: Collection[str] | None) -> None:
        self._node = root
        self._problems = problems
        self._clusters = clusters
        self._references = References(root, problems)

    def contracts(self) -> Iterator[tuple[Contract, Exposure]]:
        """The exposed channels. Complete only where no problem was added."""
        root = Section(self._node, "", self._problems, keys=_ROOT_KEYS, extensible=True)
        if not isinstance(self._node.value, dict):
            return
        root.text("asyncapi", pattern=_VERSION, allowed="3.0.x in text, such as 3.0.0")
        self._references.check()
        info = root.section("info", keys=_INFO_KEYS, extensible=True)
        if info is None:
            root.refuse("info", allowed="a mapping of title, version, description")
            return
        self._check_operations(root)
        exposed = 0
        for key, node in root.members("channels", allowed="a mapping of channels"):
            channel, reference = self._references.follow(node)
            if reference_of(channel) is not None:
                exposed += 1  # perhaps: its reference leads nowhere, which is among the problems already
            elif not isinstance(channel.value, dict):
                self._problems.add(channel.place, f"channels.{key}", got=channel.value, allowed="a mapping")
            elif reference is not None and len(node.value) > 1:
                self._problems.add(node.place, f"channels.{key}: keys beside $ref are not read", allowed="$ref alone")
            elif "x-gateway" in channel.value:
                exposed += 1
                yield self._channel(
                    root, info, Section(channel, f"channels.{key}", self._problems, keys=_CHANNEL_KEYS, extensible=True)
                )
            else:
                self._look_for_misspelling(key, channel)
        if not exposed:
            what = "no channel with an x-gateway section"
            self._problems.add(self._node.place, what, allowed="channels.<name>.x-gateway, the stream to expose")

    def _look_for_misspelling(self, key: str, channel: Node) -> None:
        for name in channel.value:
            if name.startswith("x") and nearest(name, ("x-gateway",)):
                what = f"channels.{key}: unknown key"
                self._problems.add(channel.key_place(name), what, got=name, choices=("x-gateway",))

    def _check_operations(self, root: Section) -> None:
        for key, node in root.members("operations", allowed="a mapping of operations"):
            operation, _ = self._references.follow(node)
            if reference_of(operation) is not None:
                continue
            if isinstance(operation.value, dict):
                name = f"operations.{key}"
                Section(operation, name, self._problems, keys=tuple(operation.value)).text(
                    "action", choices=("send", "receive")
                )
            else:
                self._problems.add(operation.place, f"operations.{key}", got=operation.value, allowed="a mapping")

    def _channel(self, root: Section, info: Section, channel: Section) -> tuple[Contract, Exposure]:
        message_key, message = self._message(channel)
        payload = message.get("payload") if message is not None else None
        schema = PayloadSchema(self._references.follow(payload)[0] if payload is not None else None, self._references)
        node = channel.node.value["x-gateway"]
        section = Section(node, "x-gateway", self._problems, keys=KEYS)
        exposure = parse_exposure(section, schema)
        stream = exposure.stream
        contract = Contract(
            stream=stream,
            id=root.text(
                "id", default=f"urn:stream:{stream}", pattern=_ID, allowed="a URI such as urn:example:flights"
            ),
            title=channel.text("title", default=info.text("title")),
            version=exposure.version or info.text("version", allowed="text such as '1.0.0'"),
            description=channel.text("description", default=info.text("description", default="")),
            lifecycle=exposure.lifecycle,
            owner=exposure.owner,
            visibility=exposure.visibility,
            scopes=exposure.scopes,
            transports=exposure.transports,
            cluster=self._cluster(root, channel),
            topic=self._topic(channel),
            content_type=self._content_type(root, message),
            message_name=message.text("name", default=message_key) if message is not None else message_key,
            key_exposed=exposure.key_exposed,
            headers=exposure.headers,
            projection=exposure.projection,
            filters=exposure.filters,
            row_filter=exposure.row_filter,
            replay=exposure.replay,
            deprecated_on=exposure.deprecated_on,
            sunset_on=exposure.sunset_on,
            successor=exposure.successor,
            source=channel.node.key_place("x-gateway"),
            document=self._node.plain(),
        )
        if not contract.is_json:
            for key in ("projection", "filters", "row_filter"):
                if section.get(key) is not None:
                    what = (
                        f"x-gateway.{key} needs a JSON payload, the message's content type is {contract.content_type}"
                    )
                    self._problems.add(section.place(key), what, allowed="application/json or a +json type")
        return contract, exposure

    def _message(self, channel: Section) -> tuple[str, Section | None]:
        members = list(channel.members("messages", allowed="a mapping of one message"))
        if len(members) != 1:
            what = f"{channel.path('messages')} holds {len(members)} messages"
            self._problems.add(channel.place("messages"), what, allowed="exactly one: a stream has one kind of record")
            return "", None
        key, node = members[0]
        message, reference = self._references.follow(node)
        if reference_of(message) is not None:
            return "", None
        name = reference.rpartition("/")[2] if reference else key
        return name, Section(message, f"messages.{key}", self._problems, keys=_MESSAGE_KEYS, extensible=True)

    def _content_type(self, root: Section, message: Section | None) -> str:
        allowed = "a media type such as application/json, here or as defaultContentType"
        if message is not None and message.get("contentType") is not None:
            return message.text("contentType", pattern=_MEDIA_TYPE, allowed=allowed)
        for trait in message.items("traits") if message is not None else ():
            followed = self._references.follow(trait)[0]
            if isinstance(followed.value, dict) and "contentType" in followed.value:
                name = "traits"
                keys = tuple(followed.value)
                return Section(followed, name, self._problems, keys=keys).text("contentType", pattern=_MEDIA_TYPE)
        return root.text("defaultContentType", pattern=_MEDIA_TYPE, allowed=allowed)

    def _topic(self, channel: Section) -> str:
        allowed = "a topic: 1 to 249 of A-Z a-z 0-9 . _ -"
        node = channel.get("bindings")
        bindings = self._references.follow(node)[0] if node is not None else None
        kafka = bindings.value.get("kafka") if bindings is not None and isinstance(bindings.value, dict) else None
        if kafka is not None and isinstance(kafka.value, dict) and "topic" in kafka.value:
            name = f"{channel.path('bindings')}.kafka"
            section = Section(kafka, name, self._problems, keys=tuple(kafka.value))
            return section.text("topic", pattern=_TOPIC, allowed=allowed)
        return channel.text("address", pattern=_TOPIC, allowed=f"{allowed}, here or as bindings.kafka.topic")

    def _cluster(self, root: Section, channel: Section) -> str:
        servers = dict(root.members("servers", allowed="a mapping of servers"))
        listed = channel.items("servers", allowed="a list of one reference to a server of this file")
        names = [reference.rpartition("/")[2] for reference in map(reference_of, listed) if reference]
        if any(reference_of(self._references.follow(node)[0]) is not None for node in listed):
            return ""
        if "servers" not in channel:
            names = list(servers)  # AsyncAPI: a channel that lists no server is on all of them
        if len(names) != 1 or names[0] not in servers:
            what = f"{channel.path('servers')} names {len(names)} servers of this file"
            self._problems.add(channel.place("servers"), what, allowed="exactly one, as {$ref: '#/servers/<name>'}")
            return ""
        name = names[0]
        node, _ = self._references.follow(servers[name])
        server = Section(node, f"servers.{name}", self._problems, keys=_SERVER_KEYS, extensible=True)
        server.text("protocol", choices=("kafka", "kafka-secure"))
        if self._clusters is not None and name not in self._clusters:
            what = f"servers.{name} is no configured Kafka cluster"
            self._problems.add(self._node.value["servers"].key_place(name), what, got=name, choices=self._clusters)
        return name


def _digest(contracts: Collection[Contract]) -> str:
    plain = [{**asdict(contract), "source": ""} for contract in contracts]
    return hashlib.sha256(json.dumps(plain, default=str, sort_keys=True).encode()).hexdigest()
