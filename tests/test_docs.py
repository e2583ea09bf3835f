"""The documentation and the code name the same things: what exists is described, and what is described exists."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from starlette.routing import Router

import gateway
from gateway.admin.app import create_admin_app
from gateway.catalog import exposure
from gateway.cli import main
from gateway.config.schema import describe_settings
from gateway.config.settings import Settings
from gateway.counters import Counters
from gateway.errors import GatewayError
from gateway.observability.health import Health
from gateway.observability.metrics import Metrics
from gateway.subscription import request
from gateway.transport import ws
from gateway.transport.routes import routes
from tests.reference_pages import commands

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
DECISIONS = ROOT / "docs" / "adr"
FRONT = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*FRONT, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "gateway").rglob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

TOOLS = {
    "bash", "cat", "chown", "cp", "curl", "docker", "echo", "export", "hypercorn", "install", "journalctl", "kill",
    "kubectl", "nginx", "openssl", "pip", "python3", "systemctl", "systemd-analyze", "useradd",
}  # fmt: skip
"""What commands in the pages may be, beside ours, make's targets and assignments."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


# ---- reading the pages ---------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def rows(name: str) -> set[str]:
    """What stands in backticks in the first column of any table of a reference page."""
    cells = (line.split(" | ")[0] for line in prose(REFERENCE / name).splitlines() if line.startswith("| `"))
    return {code for cell in cells for code in _CODE.findall(cell)}


def words(name: str) -> set[str]:
    """What stands in backticks anywhere on a reference page."""
    return set(_CODE.findall(prose(REFERENCE / name)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", text).strip().lower()).replace(" ", "-") for text in headings}


def commands_shown(page: Path) -> Iterator[str]:
    """The command lines of ``console`` blocks."""
    for block in blocks(page, "console"):
        yield from (line[2:] for line in block.splitlines() if line.startswith("$ "))


# ---- reading the code ----------------------------------------------------------------------------------------------


def trees(*folders: str) -> Iterator[ast.AST]:
    """Every module below ``gateway``, or below these folders of it."""
    for folder in folders or ("",):
        for path in sorted((ROOT / "gateway" / folder).rglob("*.py")):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def texts(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def calls(*folders: str, name: str) -> Iterator[ast.Call]:
    """Calls of a function or method of this name."""
    for node in trees(*folders):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == name:
                yield node


@cache
def error_classes() -> list[type[GatewayError]]:
    """Every refusal, wherever in the product it is defined."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.startswith(("gateway.demo", "gateway.__main__", "gateway.asgi")):
            importlib.import_module(module.name)
    found: list[type[GatewayError]] = [GatewayError]
    for one in found:
        found.extend(child for child in one.__subclasses__() if child not in found)
    return found


@cache
def settings_names() -> frozenset[str]:
    """Every setting and every table that settings lie in."""
    names = {row.name for row in describe_settings()}
    names |= set(Settings.model_fields)
    for name in list(names):
        parts = name.split(".")
        names |= {".".join(parts[:length]) for length in range(1, len(parts))}
    return frozenset(names)


def is_setting(name: str) -> bool:
    if name in settings_names():
        return True
    cluster = re.fullmatch(r"kafka\.clusters\.(\w+|<name>)(\.\w+)?", name)
    return cluster is not None and f"kafka.clusters.<name>{cluster[2] or ''}" in settings_names()


@cache
def metric_names() -> frozenset[str]:
    """Every metric of the product as a scrape spells it, where every family has a sample."""
    families = Metrics(Counters(), version="0").registry.collect()
    return frozenset(f"{one.name}_total" if one.type == "counter" else one.name for one in families)


@cache
def tree_of_commands() -> dict[str, click.Context]:
    return dict(commands(click.Context(main, info_name="gateway")))


def flags(context: click.Context) -> set[str]:
    named = [option for parameter in context.command.get_params(context) for option in parameter.opts]
    return {option for option in named if option.startswith("--")}


NOBODY: Any = None
SOMEBODY: Any = object()


def admin_paths() -> list[str]:
    """The routes of the management port, out of the app that serves them."""
    app: Any = create_admin_app(
        health=Health([]), metrics=Metrics(Counters(), version="0"), administration=SOMEBODY, tokens=()
    )
    routers = [cell.cell_contents for cell in app._app.__closure__ if isinstance(cell.cell_contents, Router)]
    assert len(routers) == 1
    return [route.path for route in routers[0].routes]  # type: ignore[attr-defined]


def public_paths() -> list[str]:
    """The routes of the public port; nothing is asked of the gate before a request comes."""
    return [route.path for route in routes(NOBODY)]  # type: ignore[attr-defined]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


# ---- what exists is described --------------------------------------------------------------------------------------


def test_every_route_is_described_and_no_other() -> None:
    served = set(public_paths() + admin_paths())
    assert len(served) >= 9
    described = {path for path in rows("http-api.md") if path.startswith("/")}
    assert described == served


def test_every_query_parameter_is_described() -> None:
    assert {*request.EVERYWHERE, *request.PULL_ONLY} <= rows("http-api.md")


def test_every_setting_is_described_and_no_other() -> None:
    assert rows("settings.md") == {row.name for row in describe_settings()}


def test_every_error_code_is_described_and_no_other() -> None:
    described = {row for row in rows("errors.md") if re.fullmatch(r"[a-z_]+", row)}
    members = {"code", "title", "detail", "action", "correlation_id", "retry_after_ms", "close_code"}
    assert described - members == {one.code for one in error_classes()}


def test_every_close_code_is_described() -> None:
    described = set(re.findall(r"\b4[45]\d\d\b", prose(REFERENCE / "errors.md")))
    assert {str(one.close_code) for one in error_classes()} == described


def test_every_metric_is_described_and_no_other() -> None:
    assert len(metric_names()) > 15
    assert rows("metrics.md") == metric_names()


def test_every_command_and_flag_is_described() -> None:
    sections = dict(re.findall(r"^## (gateway.*)\n((?:.|\n)*?)(?=^## |\Z)", (REFERENCE / "cli.md").read_text(), re.M))
    assert sections.keys() == tree_of_commands().keys()
    for path, context in tree_of_commands().items():
        missing = {flag for flag in flags(context) if flag not in sections[path]}
        assert not missing, path


def test_every_event_of_a_stream_is_described() -> None:
    sent = {
        name
        for called in ("event", "say")
        for call in calls("subscription", "transport", name=called)
        for name in texts(call.args[:1])
    }
    assert {"welcome", "checkpoint", "gap", "goodbye", "error"} <= sent
    assert sent <= rows("http-api.md")


def test_every_reason_of_a_gap_is_described() -> None:
    engine = list(calls("subscription", name="Skipped"))
    reasons = {reason for call in engine for reason in texts(call.args[:1])}
    for called in ("Gap", "Skipped"):
        for call in calls("subscription", name=called):
            reasons |= set(texts([keyword.value for keyword in call.keywords if keyword.arg == "reason"]))
    assert {"retention", "history_changed", "undecodable"} <= reasons
    assert reasons <= rows("http-api.md")


def test_every_frame_of_a_client_is_described() -> None:
    known = {name.strip() for name in ws._COMMANDS.split(",")}
    frames = [json.loads(row) for row in rows("http-api.md") if row.startswith('{"type"')]
    assert known == {frame["type"] for frame in frames}


def test_every_header_of_ours_is_described() -> None:
    constants = (node.value for node in trees() if isinstance(node, ast.Constant) and isinstance(node.value, bytes))
    sent = {value.decode().title() for value in constants if re.fullmatch(rb"gateway-[a-z-]+", value)}
    assert sent == {row for row in rows("http-api.md") if row.startswith("Gateway-")}


def test_every_logged_event_is_described_and_no_other() -> None:
    logged = {name for call in calls(name="event") for name in texts(call.args[2:3])}
    assert "access" in logged
    table = prose(REFERENCE / "logs.md").partition("## Events")[2]
    assert set(re.findall(r"^\| `(\w+)` ", table, re.MULTILINE)) == logged


def test_every_key_of_a_contract_and_of_a_catalog_is_described() -> None:
    assert set(exposure.KEYS) <= rows("contracts-and-catalog.md")
    known: set[str] = set()
    for node in trees("catalog"):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if any(re.fullmatch(r"_?(PLAN_|TENANT_)?KEYS|keys|RATES|QUOTAS|_METERS", name) for name in names):
                known |= set(texts(node.value.elts))
    described = words("contracts-and-catalog.md") | {
        word for code in words("contracts-and-catalog.md") for word in re.findall(r"\w+", code)
    }
    assert {"client_id", "spend_limit", "connection_seconds", "entitlements"} <= known
    assert known <= described


def test_every_make_target_is_described() -> None:
    front = "".join(page.read_text(encoding="utf-8") for page in FRONT)
    assert make_targets() - set(re.findall(r"\bmake ([a-z]+)", front)) == set()


def test_every_decision_is_in_the_list_of_decisions() -> None:
    listed = set(_LINK.findall((DECISIONS / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in DECISIONS.glob("[0-9]*.md")} == {name for name in listed if name[0].isdigit()}


def test_every_page_can_be_reached_from_the_first() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = ((page.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(page)))
            waiting.extend(target for target in targets if target in PAGES)
    assert reached == set(PAGES)


# ---- what is described exists --------------------------------------------------------------------------------------


@EVERY_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@EVERY_PAGE
def test_no_setting_metric_or_flag_is_named_that_is_not_there(page: Path) -> None:
    sections = "|".join(Settings.model_fields)
    for code in _CODE.findall(prose(page)):
        if re.fullmatch(rf"(?:{sections})\.[a-z_.<>\[\]]+", code) and not code.endswith((".py", ".yaml", ".toml")):
            assert is_setting(code), code
        if re.match(r"gateway_[a-z_]+", code):
            name = re.match(r"gateway_[a-z_]+", code)
            assert name and re.sub(r"_(bucket|sum|count)$", "", name[0]) in metric_names(), code
        if code.startswith("--"):
            assert any(code.split()[0] in flags(one) for one in tree_of_commands().values()), code
    for variable in re.findall(r"\bGATEWAY_[A-Z]+__[A-Z_]+\b", page.read_text(encoding="utf-8")):
        assert is_setting(variable.removeprefix("GATEWAY_").lower().replace("__", ".")), variable


@EVERY_PAGE
def test_every_settings_file_shown_holds_settings(page: Path) -> None:
    def check(table: dict[str, Any], prefix: str) -> None:
        for key, value in table.items():
            name = f"{prefix}{key}"
            assert is_setting(name), name
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    check(one, f"{name}[]." if isinstance(value, list) else f"{name}.")

    for block in blocks(page, "toml"):
        check(tomllib.loads(block), "")


@EVERY_PAGE
def test_every_command_shown_can_be_run(page: Path) -> None:
    shown = [code for code in _CODE.findall(prose(page)) if code.startswith(("gateway ", "make "))]
    for line in [*commands_shown(page), *shown]:
        # Commands within $(…) and behind a pipe are commands too.
        for part in re.split(r"\$\(|\)| \| ", line):
            check_command(part.strip(), line)


def check_command(command: str, line: str) -> None:
    if not command or command.startswith(('"', "'", "&", "?", "/v1")):
        return  # the rest of a line that was cut at a bracket
    try:
        first, *rest = shlex.split(command)
    except ValueError:
        first, *rest = command.split()
    program = first.rpartition("/")[2]
    if program == "make":
        assert rest[0] in make_targets() or rest[0].startswith("ARGS="), line
    elif program == "gateway":
        check_own_command(rest, line)
    else:
        assert program in TOOLS or re.match(r"[A-Z_]+=", first), line


def check_own_command(arguments: list[str], line: str) -> None:
    path = "gateway"
    while arguments and f"{path} {arguments[0]}" in tree_of_commands():
        path += f" {arguments.pop(0)}"
    context = tree_of_commands()[path]
    if isinstance(context.command, click.Group):
        assert not arguments or arguments[0].startswith("--"), line
    for argument in arguments:
        if argument.startswith("--"):
            assert argument.partition("=")[0] in flags(context) | {"--help"}, line
