"""The command: what it prints, where, and with which exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gateway.auth.issuer_store import IssuerStore
from gateway.auth.signing import SigningKeys
from gateway.auth.tokens import IssuerSettings, TokenVerifier
from gateway.cli import main
from gateway.clock import SystemClock
from gateway.database.database import Database
from tests.parts.kafka import Kafka
from tests.parts.ports import free_port
from tests.parts.redis import RedisServer
from tests.reference_pages import FOLDER, cli_page, commands

EXAMPLES = Path(__file__).resolve().parents[1] / "asyncapi"
BUILTIN = ("--set", "auth.builtin.enabled=true")


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, tmp_path / "asyncapi")
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="gateway")


@pytest.mark.parametrize("path", [path for path, _ in commands(click.Context(main, info_name="gateway"))])
def test_every_command_has_help_with_an_example(path: str) -> None:
    result = run(*path.split()[1:], "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert "gateway " in result.stdout.partition("Example:")[2]


def test_every_command_takes_the_configuration_file_but_the_demo_which_has_its_own() -> None:
    for path, context in commands(click.Context(main, info_name="gateway")):
        options = {option for parameter in context.command.params for option in parameter.opts}
        if not isinstance(context.command, click.Group) and path != "gateway demo":
            assert "--config" in options, path


def test_help_does_not_load_what_the_commands_need() -> None:
    program = (
        "import sys, gateway.cli\n"
        "heavy = {'pydantic', 'sqlalchemy', 'aiokafka', 'jwt', 'uvicorn', 'starlette', 'redis', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_page_is_the_one_that_the_commands_make() -> None:
    assert (FOLDER / "cli.md").read_text(encoding="utf-8") == cli_page(), "run `make docs`"


@pytest.mark.parametrize("command", [("serve",), ("check",), ("token", "--client-id", "x"), ("contracts", "lint")])
def test_wrong_settings_are_lines_on_stderr_and_exit_code_2(command: tuple[str, ...]) -> None:
    result = run(*command, "--set", "http.port=x", "--set", "htpp.port=1")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "gateway: --set htpp.port: no such setting; did you mean http.port?",
        "gateway: --set http.port: http.port = 'x': must be a whole number from 0 to 65535",
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("billing", "close", "--period", "2026-13"), "--period '2026-13'"),
        (("billing", "close", "--period", "october"), "--period 'october'"),
        (("usage", "audit", "--tenant", "acme", "--stream", "s", "--day", "9999-12-31"), "--day 9999-12-31"),
    ],
)
def test_a_month_or_day_that_cannot_be_is_exit_code_2(command: tuple[str, ...], said: str) -> None:
    done = run(*command)
    assert done.exit_code == 2, done.output
    assert said in done.stderr


def test_a_set_without_a_value_is_a_usage_error() -> None:
    result = run("check", "--set", "http.port")
    assert result.exit_code == 2
    assert "is not NAME=VALUE" in result.stderr


def test_an_unexpected_failure_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    @main.command()
    def broken() -> None:
        raise KeyError("deep inside")

    try:
        result = run("broken")
    finally:
        del main.commands["broken"]
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("gateway: internal error ")
    assert "KeyError: 'deep inside'" in line


def test_lint_names_the_good_contracts() -> None:
    result = run("contracts", "lint")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [["ok", "earthquakes"], ["ok", "flights"]]
    assert json.loads(run("contracts", "lint", "--format", "json").stdout) == {
        "ok": True,
        "streams": ["earthquakes", "flights"],
    }


def test_lint_tells_all_problems_with_file_and_line() -> None:
    for name in ("earthquakes", "flights"):
        path = Path(f"asyncapi/streams/{name}.yaml")
        path.write_text(path.read_text(encoding="utf-8").replace("lifecycle: published", "lifecycle: publishd"))
    result = run("contracts", "lint")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "asyncapi/streams/earthquakes.yaml",
        "asyncapi/streams/flights.yaml",
    ]
    assert all("published" in line for line in lines)
    document = run("contracts", "lint", "--format", "json")
    assert document.exit_code == 2
    assert len(json.loads(document.stdout)["problems"]) == 2


def test_show_tells_what_a_contract_says() -> None:
    assert "aviation.flights.v2" in run("contracts", "show", "flights").stdout
    assert json.loads(run("contracts", "show", "flights", "--format", "json").stdout)["topic"] == "aviation.flights.v2"
    every = json.loads(run("contracts", "show", "--format", "json").stdout)["contracts"]
    assert [contract["stream"] for contract in every] == ["earthquakes", "flights"]
    wrong = run("contracts", "show", "flihgts")
    assert wrong.exit_code == 2
    assert "did you mean 'flights'" in wrong.stderr


def test_apply_shows_the_difference_and_a_second_time_there_is_none() -> None:
    file = "asyncapi/catalog.yaml"
    dry = run("apply", "--dry-run", file, *BUILTIN)
    assert dry.exit_code == 0
    assert "+ tenant acme" in dry.stdout
    assert "nothing was changed" in dry.stdout
    first = json.loads(run("apply", file, "--format", "json", *BUILTIN).stdout)
    assert first["applied"]
    assert {"product", "plan", "tenant", "application", "entitlement"} == {one["kind"] for one in first["changes"]}
    assert run("apply", file, *BUILTIN).stdout == "nothing to do\n"


def test_prices_that_look_like_mistakes_are_warnings_of_apply_and_of_check() -> None:
    path = Path("asyncapi/catalog.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("unit_price: '0.000002'", "unit_price: '0'"))
    applied = run("apply", str(path), "--format", "json", *BUILTIN)
    assert applied.exit_code == 0
    assert json.loads(applied.stdout)["applied"]
    assert re.search(r"^warning: asyncapi/catalog.yaml:\d+: plan pro .*, charge Replay: unit price 0", applied.stderr)
    checked = run("check", *BUILTIN, "--set", f"kafka.bootstrap_servers=127.0.0.1:{free_port()}")
    assert "warn   prices: plan pro revision 1, charge Replay: unit price 0" in checked.stdout


def test_applications_that_no_token_matches_are_warnings_of_apply_and_of_check() -> None:
    issuers = [
        f"""[[auth.issuers]]
name = "{name}"
issuer = "https://{name}.example"
audience = "streams"
jwks_file = "{name}.json"
"""
        for name in ("one", "two")
    ]
    Path("gateway.toml").write_text("".join(issuers), encoding="utf-8")
    applied = run("apply", "asyncapi/catalog.yaml")
    assert applied.exit_code == 0, applied.output
    assert "+ application" in applied.stdout
    lines = applied.stderr.splitlines()
    said = "application acme-web: no token matches it without an issuer, several are configured, got nothing"
    assert f"warning: asyncapi/catalog.yaml:57: tenant acme: {said}; allowed: one, two" in lines
    assert len(lines) == 4
    assert run("apply", "asyncapi/catalog.yaml").exit_code == 0
    assert f"warn   applications: catalog: tenant acme: {said}" in run("check").stdout


def test_a_bad_catalog_changes_nothing_and_is_exit_code_2() -> None:
    path = Path("asyncapi/catalog.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("product: aviation", "product: aviaton"))
    result = run("apply", str(path), *BUILTIN)
    assert result.exit_code == 2
    assert "did you mean 'aviation'" in result.stderr
    assert not Path("data/gateway.db").exists()


def test_nothing_that_a_file_says_draws_on_the_terminal() -> None:
    path = Path("asyncapi/catalog.yaml")
    text = path.read_text(encoding="utf-8")
    name = '"acme\\r\\n\\e[2Jgateway: all is well\\x9b31m"'
    path.write_text(
        text.replace("- name: acme\n", f"- name: {name}\n").replace("Europe/Berlin", "Mars"), encoding="utf-8"
    )
    result = run("apply", str(path), *BUILTIN)
    assert result.exit_code == 2
    lines = result.stderr.split("\n")[:-1]
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert line.startswith("gateway: asyncapi/catalog.yaml:")
    assert "acme\\r\\n\\x1b[2Jgateway: all is well\\x9b31m" in result.stderr


def test_what_apply_shows_of_a_title_draws_nothing_either() -> None:
    path = Path("asyncapi/catalog.yaml")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("title: Open geo data", 'title: "Open \\x9b31m\\u202e \u00e9"'), encoding="utf-8")
    result = run("apply", str(path), *BUILTIN)
    assert result.exit_code == 0
    assert 'title "Open \\x9b31m\\u202e \u00e9"' in result.stdout


def test_a_database_that_is_away_is_exit_code_1() -> None:
    url = f"postgresql+psycopg://user:hunter2@127.0.0.1:{free_port()}/x"
    result = run("apply", "asyncapi/catalog.yaml", *BUILTIN, "--set", f"database.url={url}")
    assert result.exit_code == 1
    assert result.stderr.startswith("gateway: database.url: Postgres database x at 127.0.0.1:")
    assert "connection refused; start it, or correct the address" in result.stderr
    assert "hunter2" not in result.stderr


def test_a_token_is_one_that_the_verifier_accepts() -> None:
    options = ("--client-id", "acme-batch", "--scope", "streams:read", "--scope", "flights:read")
    result = run("token", *options, "--claim", "airport=ORD", "--claim", "level=3", "--ttl", "15m", *BUILTIN)
    assert result.exit_code == 0, result.stderr
    clock = SystemClock()
    keys = SigningKeys(clock=clock, longest_seconds=86_400)
    with contextlib.closing(Database("sqlite:///data/gateway.db")) as database:
        keys.take(IssuerStore(database, None).load().keys)
    issuer = IssuerSettings(
        name="builtin", issuer="urn:gateway:builtin", audience="urn:gateway", keys=keys, algorithms=("ES256",)
    )
    principal = TokenVerifier([issuer], clock=clock).verify(result.stdout.strip())
    assert principal.client_id == "acme-batch"
    assert principal.scopes == {"streams:read", "flights:read"}
    assert (principal.claims["airport"], principal.claims["level"]) == ("ORD", 3)
    assert 890 < principal.expires_at - clock.now() <= 900
    document = json.loads(run("token", *options, *BUILTIN, "--format", "json").stdout)
    assert (document["token_type"], document["expires_in"]) == ("Bearer", 3600)


def test_a_token_for_a_client_that_the_catalog_does_not_know_is_given_with_a_word_about_it() -> None:
    before = run("token", "--client-id", "nobody", *BUILTIN)
    assert (before.exit_code, before.stderr) == (0, ""), "there is no catalog yet that could know anybody"
    assert run("apply", "asyncapi/catalog.yaml", *BUILTIN).exit_code == 0
    known = run("token", "--client-id", "acme-batch", *BUILTIN)
    assert (known.exit_code, known.stderr) == (0, "")
    unknown = run("token", "--client-id", "nobody", *BUILTIN)
    assert unknown.exit_code == 0
    assert unknown.stdout.count(".") == 2, "stdout is the token alone, for $(gateway token ...)"
    assert "no application with client_id 'nobody'" in unknown.stderr
    assert "gateway apply" in unknown.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "auth.builtin.enabled"),
        ((*BUILTIN, "--ttl", "1y"), "is not a duration"),
        ((*BUILTIN, "--ttl", "2d"), "at most 86400 s"),
        ((*BUILTIN, "--claim", "airport"), "is not NAME=VALUE"),
        ((*BUILTIN, "--claim", "exp=1"), "is set by the issuer"),
    ],
)
def test_a_token_that_cannot_be_is_refused_with_exit_code_2(options: tuple[str, ...], said: str) -> None:
    result = run("token", "--client-id", "acme-batch", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr


@pytest.mark.parametrize("kid", ["-Cu8US39uQG1hSW-xciqFUi9Z7OeVhFtmT_ta3F2Oxw", "--config", "--Cu8US39"])
def test_a_key_may_have_a_name_that_begins_like_an_option(kid: str) -> None:
    result = run("keys", "remove", *BUILTIN, *(("--", kid) if kid == "--config" else (kid,)))
    assert result.exit_code == 2
    assert result.stderr == f"gateway: there is no signing key {kid}; `gateway keys list` shows all\n"


def test_check_says_what_to_do_about_everything_that_is_missing() -> None:
    away = ("--set", f"kafka.bootstrap_servers=127.0.0.1:{free_port()}")
    redis = ("--set", f"redis.url=redis://:hunter2@127.0.0.1:{free_port()}")
    result = run("check", *BUILTIN, *away, *redis)
    assert result.exit_code == 1
    failed = [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == ["FAILED database", "FAILED kafka main", "FAILED redis"]
    assert "gateway apply" in result.stdout
    assert "hunter2" not in result.output
    assert not Path("data").exists(), "looking must leave nothing behind"


def test_check_reports_unusable_settings_as_json_too() -> None:
    result = run("check", "--format", "json", "--set", "http.port=x")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["checks"][0]["ok"] is False


def test_check_reports_a_broken_contract_and_still_looks_at_the_rest() -> None:
    Path("asyncapi/streams/flights.yaml").write_text("asyncapi: 2.0.0\n")
    result = run("check")
    assert result.exit_code == 1
    assert "FAILED contracts: asyncapi/streams/flights.yaml:1" in result.stdout
    assert "FAILED database" in result.stdout


async def test_check_is_content_when_everything_is_there(kafka: Kafka, redis_server: RedisServer) -> None:
    servers = {"kafka.bootstrap_servers": kafka.bootstrap, "redis.url": redis_server.url}
    settings = [*BUILTIN, *(part for name, value in servers.items() for part in ("--set", f"{name}={value}"))]
    topics = ["aviation.flights.v2", "seismology.quakes.v1"]

    async def check() -> dict[str, bool]:
        # In a thread, since the command brings its own event loop.
        result = await asyncio.to_thread(run, "check", *settings, "--format", "json")
        document = json.loads(result.stdout)
        assert result.exit_code == (0 if document["ok"] else 1), result.output
        return {one["name"]: one["ok"] for one in document["checks"]}

    assert run("apply", "asyncapi/catalog.yaml", *BUILTIN).exit_code == 0
    before = await check()
    # Another test of this run may have made them; then only the second look says something.
    for topic in topics:
        if not before[f"topic {topic}"]:
            await kafka.create_topic(topic, 2)
    after = await check()
    assert all(after.values()), after
    assert {f"topic {topic}" for topic in topics} < set(after)
