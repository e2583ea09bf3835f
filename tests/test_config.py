"""Settings: three sources, one order, and every mistake told at once with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from gateway.auth import keys
from gateway.clock import SystemClock
from gateway.config import Settings, load_settings
from gateway.config.adapters import kafka_cluster_settings, kafka_clusters
from gateway.config.auth import Algorithm, IssuerSettings
from gateway.config.http import HttpSettings
from gateway.config.schema import describe_settings, find_field, walk_fields
from gateway.config.sources import find_lines, spell_variable
from gateway.errors import ConfigurationProblems
from tests.reference_pages import FOLDER, settings_page


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(
    config: Path | None = None, environ: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> list[str]:
    with pytest.raises(ConfigurationProblems) as caught:
        load_settings(config, environ=environ or {}, overrides=overrides or {})
    return caught.value.problems


def test_defaults_are_those_of_the_operators_contract() -> None:
    settings = load_settings(environ={})
    assert (settings.http.host, settings.http.port, settings.http.public_url) == (
        "127.0.0.1",
        8080,
        "http://127.0.0.1:8080",
    )
    assert (settings.admin.host, settings.admin.port, settings.admin.tokens) == ("127.0.0.1", 9090, ())
    assert settings.database.url.get_secret_value() == "sqlite:///data/gateway.db"
    assert (settings.data.dir, settings.contracts.dir) == (Path("data"), Path("asyncapi"))
    assert (settings.auth.max_token_lifetime_seconds, settings.auth.leeway_seconds) == (86_400, 5)
    assert settings.auth.builtin.enabled is False
    stream = settings.stream
    assert (stream.heartbeat_seconds, stream.ring_bytes, stream.ring_records) == (15, 64 * 1024 * 1024, 100_000)
    assert (stream.drain_seconds, stream.memory_bytes) == (20, 1024**3)


def test_flags_win_over_environment_and_environment_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "g.toml", '[http]\nhost = "10.0.0.1"\nport = 1001\n[admin]\nport = 1002\n')
    environ = {"GATEWAY_HTTP__PORT": "2001", "GATEWAY_ADMIN__PORT": "2002"}
    settings = load_settings(file, environ=environ, overrides={"admin.port": "3002"})
    assert (settings.http.host, settings.http.port, settings.admin.port) == ("10.0.0.1", 2001, 3002)


def test_the_file_in_the_working_directory_is_read_without_being_named() -> None:
    write(Path("gateway.toml"), "[http]\nport = 1234\n")
    assert load_settings(environ={}).http.port == 1234


def test_a_named_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "absent.toml")
    assert problem.startswith(f"{tmp_path}/absent.toml: cannot be read: No such file")


def test_the_processes_own_environment_is_not_read_behind_the_callers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP", '{"port": 1}')
    monkeypatch.setenv("GATEWAY_HTTP__PORT", "1")
    assert load_settings(environ={}).http.port == Settings().http.port == 8080


def test_every_mistake_of_every_source_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    file = write(
        tmp_path / "g.toml",
        "[http]\nport = 99999\nprot = 3\n[htpp]\nx = 1\n\n[stream]\nring_bytes = [\n  1,\n  2,\n]\n",
    )
    problems = problems_of(
        file, {"GATEWAY_LOG__LEVEL": "loud", "GATEWAY_HTTP_PORT": "1"}, {"stream.ring_record": "3", "admin.port": "x"}
    )
    assert sorted(problems) == sorted(
        [
            f"{file}:2: http.port = 99999: must be a whole number from 0 to 65535",
            f"{file}:3: http.prot: no such setting; did you mean http.port?",
            f"{file}:4: htpp: no such setting; did you mean http?",
            f"{file}:8: stream.ring_bytes = [1, 2]: "
            "must be a whole number of bytes (or text such as 64 MiB) from 65536",
            "GATEWAY_LOG__LEVEL: log.level = 'loud': must be one of debug, info, warning, error",
            "GATEWAY_HTTP_PORT: no such setting; did you mean GATEWAY_HTTP__PORT?",
            "--set stream.ring_record: no such setting; did you mean stream.ring_records?",
            "--set admin.port: admin.port = 'x': must be a whole number from 0 to 65535",
        ]
    )


def test_a_list_given_again_by_a_variable_is_blamed_on_the_variable(tmp_path: Path) -> None:
    file = write(tmp_path / "g.toml", '[http]\ntrusted_proxies = ["10.0.0.1"]\n')
    (problem,) = problems_of(file, {"GATEWAY_HTTP__TRUSTED_PROXIES": '["nowhere"]'})
    assert problem.startswith("GATEWAY_HTTP__TRUSTED_PROXIES: http.trusted_proxies[0] = 'nowhere'")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GATEWAY_HTTP__PROT", "GATEWAY_HTTP__PORT"),
        ("GATEWAY_HTPP__PORT", "GATEWAY_HTTP__PORT"),
        ("GATEWAY_KAFKA__BOOTSTRAP_SERVER", "GATEWAY_KAFKA__BOOTSTRAP_SERVERS"),
        ("GATEWAY_KAFKA_BOOTSTRAP_SERVERS", "GATEWAY_KAFKA__BOOTSTRAP_SERVERS"),
        ("GATEWAY_AUTH__BUILTIN__ENABLE", "GATEWAY_AUTH__BUILTIN__ENABLED"),
        ("GATEWAY_KAFKA__CLUSTERS__EU__SSL_CAFIL", "GATEWAY_KAFKA__CLUSTERS__EU__SSL_CAFILE"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(name: str, nearest: str) -> None:
    assert problems_of(environ={name: "1"}) == [f"{name}: no such setting; did you mean {nearest}?"]


def test_variables_that_are_none_of_our_settings_are_passed_over() -> None:
    environ = {
        "GATEWAY_TOKEN": "eyJ",
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT_HTTP": "80",
        "OTHER": "x",
        "GATEWAY_HTTP__PORT": "",
    }
    assert load_settings(environ=environ) == load_settings(environ={})


def test_secrets_are_in_no_message_and_in_no_printed_settings(tmp_path: Path) -> None:
    file = write(
        tmp_path / "g.toml",
        '[redis]\nurl = "http://:hunter2@x"\npasswort = "hunter2"\n[admin]\ntokens = ["hunter2 hunter2"]\n'
        '[cursor]\nkeys = ["hunter2"]\n[database]\nurl = "mysql://root:hunter2@x/y"\n[kafka]\nsasl_password = 7\n',
    )
    environ = {"GATEWAY_KAFKA__CLUSTERS__EU__SASL_PASSWORD": "hunter2", "GATEWAY_STREAM__RING_BYTES": "x"}
    problems = problems_of(file, environ)
    assert len(problems) >= 6
    assert "hunter2" not in "\n".join(problems)
    good = {"redis.url": "redis://:hunter2@x", "cursor.keys": '["hunter2hunter2hunter2"]'}
    assert "hunter2" not in repr(load_settings(environ={}, overrides=good))


def test_lists_are_json_in_the_environment_and_brokers_may_be_a_comma_list() -> None:
    environ = {"GATEWAY_ADMIN__TOKENS": '["a", "b"]', "GATEWAY_KAFKA__BOOTSTRAP_SERVERS": "one:9092, two:9093"}
    settings = load_settings(environ=environ)
    assert [token.get_secret_value() for token in settings.admin.tokens] == ["a", "b"]
    assert settings.kafka.bootstrap_servers == ("one:9092", "two:9093")
    as_json = load_settings(environ={"GATEWAY_KAFKA__BOOTSTRAP_SERVERS": '["one:9092"]'})
    assert as_json.kafka.bootstrap_servers == ("one:9092",)
    (problem,) = problems_of(environ={"GATEWAY_ADMIN__TOKENS": "secret"})
    assert problem == 'GATEWAY_ADMIN__TOKENS: admin.tokens must be JSON here, such as ["a", "b"] for a list'


def test_several_clusters_have_names_and_become_what_the_adapter_asks_for() -> None:
    environ = {
        "GATEWAY_KAFKA__BOOTSTRAP_SERVERS": "main:9092",
        "GATEWAY_KAFKA__CLUSTERS__EU__BOOTSTRAP_SERVERS": "eu:9092,eu2:9092",
        "GATEWAY_KAFKA__CLUSTERS__EU__SECURITY_PROTOCOL": "SASL_SSL",
        "GATEWAY_KAFKA__CLUSTERS__EU__SASL_MECHANISM": "SCRAM-SHA-512",
        "GATEWAY_KAFKA__CLUSTERS__EU__SASL_USERNAME": "gateway",
        "GATEWAY_KAFKA__CLUSTERS__EU__SASL_PASSWORD": "pw",
        "GATEWAY_KAFKA__CLUSTERS__EU__SSL_CAFILE": "/ca.pem",
    }
    settings = load_settings(environ=environ)
    assert list(settings.kafka.by_name()) == ["main", "eu"]
    adapted = kafka_cluster_settings(settings.kafka.by_name()["eu"])
    assert (adapted.bootstrap_servers, adapted.security_protocol, adapted.sasl_mechanism, adapted.sasl_password) == (
        "eu:9092,eu2:9092",
        "SASL_SSL",
        "SCRAM-SHA-512",
        "pw",
    )
    assert adapted.tls.ca == "/ca.pem"
    with pytest.raises(ConfigurationProblems) as refused:
        kafka_clusters(settings, clock=SystemClock())
    (problem,) = refused.value.problems
    assert problem.startswith("kafka.clusters.eu.ssl_cafile: /ca.pem: No such file or directory; allowed: a PEM file")
    del environ["GATEWAY_KAFKA__CLUSTERS__EU__SSL_CAFILE"]
    clusters = kafka_clusters(load_settings(environ=environ), clock=SystemClock())
    assert {name: cluster.name for name, cluster in clusters.items()} == {"main": "main", "eu": "eu"}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"GATEWAY_KAFKA__BOOTSTRAP_SERVERS": "nowhere"}, "each server must be host:port"),
        ({"GATEWAY_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, "needs sasl_mechanism, sasl_username and sasl_password"),
        (
            {"GATEWAY_KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "GATEWAY_KAFKA__SASL_MECHANISM": "OAUTHBEARER"},
            "needs sasl_oauth_token_url, sasl_oauth_client_id and sasl_oauth_client_secret",
        ),
        ({"GATEWAY_KAFKA__SASL_OAUTH_TOKEN_URL": "ftp://x/token"}, "must be an http or https address"),
        ({"GATEWAY_STREAM__MAX_RECORD_BYTES": "64 MiB"}, "must not be larger than max_batch_bytes"),
        ({"GATEWAY_KAFKA__CLUSTERS__MAIN__BOOTSTRAP_SERVERS": "a:1"}, "the cluster named main is kafka itself"),
        ({"GATEWAY_HTTP__TLS_CERT_FILE": "x.pem"}, "tls_cert_file and tls_key_file must be given together"),
        ({"GATEWAY_HTTP__TRUSTED_PROXIES": '["10.0.0.0/33"]'}, "each proxy must be an IP address or a network"),
        ({"GATEWAY_HTTP__PUBLIC_URL": "ftp://x"}, "must be an http or https address"),
        ({"GATEWAY_HTTP__PORT": "9090"}, "http.port and admin.port must differ"),
        ({"GATEWAY_STREAM__RING_BYTES": "2 GiB"}, "must not be larger than memory_bytes"),
        ({"GATEWAY_REDIS__MODE": "ring"}, "redis.mode = 'ring': must be one of single, sentinel, cluster"),
        ({"GATEWAY_REDIS__MODE": "sentinel"}, "mode sentinel needs url"),
        (
            {"GATEWAY_REDIS__MODE": "sentinel", "GATEWAY_REDIS__URL": "redis:///0"},
            "mode sentinel needs sentinels and sentinel_service",
        ),
        (
            {
                "GATEWAY_REDIS__MODE": "sentinel",
                "GATEWAY_REDIS__URL": "redis://master/0",
                "GATEWAY_REDIS__SENTINELS": "s:1",
                "GATEWAY_REDIS__SENTINEL_SERVICE": "limits",
            },
            "url has no host",
        ),
        ({"GATEWAY_REDIS__SENTINELS": "s:1"}, "sentinels is for mode sentinel, and the mode is single"),
        ({"GATEWAY_REDIS__MODE": "cluster", "GATEWAY_REDIS__URL": "redis://x/1"}, "of database 0"),
        ({"GATEWAY_REDIS__MODE": "cluster", "GATEWAY_REDIS__URL": "unix:///x"}, "url is redis:// or rediss://"),
        ({"GATEWAY_REDIS__URL": "rediss://x", "GATEWAY_REDIS__SSL_KEY_FILE": "k"}, "must be given together"),
        ({"GATEWAY_REDIS__URL": "redis://x", "GATEWAY_REDIS__SSL_CA_FILE": "c"}, "begins with rediss://"),
        ({"GATEWAY_DATABASE__URL": "mysql://x"}, "begins with sqlite:/// or postgresql+psycopg://"),
    ],
)
def test_what_does_not_go_together_is_refused(environ: dict[str, str], said: str) -> None:
    (problem,) = problems_of(environ=environ)
    assert said in problem
    assert problem.startswith(("GATEWAY_", "settings: "))


def test_small_values_are_legal() -> None:
    values = {
        "stream.heartbeat_seconds": "1",
        "stream.ring_bytes": "1 MiB",
        "stream.ring_records": "1",
        "auth.leeway_seconds": "0",
        "stream.drain_seconds": "0",
    }
    stream = load_settings(environ={}, overrides=values).stream
    assert (stream.heartbeat_seconds, stream.ring_bytes, stream.drain_seconds) == (1, 1 << 20, 0)


ISSUER = '[[auth.issuers]]\nname = "idp"\nissuer = "https://idp.example"\naudience = "gateway"\n'


@pytest.mark.parametrize("value", ['"no"', '"false"', '"true"', "0", "1", "[]"])
def test_what_is_yes_or_no_is_true_or_false_in_a_file(tmp_path: Path, value: str) -> None:
    issuer = """[[auth.issuers]]
name = "idp"
issuer = "https://idp.example"
audience = "streams"
jwks_file = "keys.json"
"""
    text = f"{issuer}require_typ = {value}\n[metering]\nenabled = {value}\n"
    shown = value.replace('"', "'")
    path = write(tmp_path / "g.toml", text)
    assert problems_of(path) == [
        f"{path}:6: auth.issuers[0].require_typ = {shown}: must be true or false",
        f"{path}:8: metering.enabled = {shown}: must be true or false",
    ]


def test_a_number_in_a_file_is_no_truth_value(tmp_path: Path) -> None:
    path = write(tmp_path / "g.toml", "[http]\nport = true\n[stream]\ndrain_seconds = false\nring_bytes = true\n")
    assert len(problems_of(path)) == 3


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_variables_are_text_and_say_yes_or_no_in_it(text: str, *, meant: bool) -> None:
    environ = {"GATEWAY_METERING__ENABLED": text}
    assert load_settings(environ=environ).metering.enabled is meant
    assert load_settings(environ={}, overrides={"metering.enabled": text}).metering.enabled is meant


def test_an_issuer_needs_keys_and_asymmetric_algorithms(tmp_path: Path) -> None:
    file = write(tmp_path / "g.toml", ISSUER + 'jwks_file = "keys.json"\nalgorithms = ["ES256"]\n')
    (issuer,) = load_settings(file, environ={}).auth.issuers
    assert (issuer.jwks_file, issuer.algorithms, issuer.require_typ) == (tmp_path / "keys.json", ("ES256",), True)
    (problem,) = problems_of(write(file, ISSUER + 'jwks_file = "k"\nalgorithms = ["RS256", "HS256"]\n'))
    assert problem.startswith(f"{file}:6: auth.issuers[0].algorithms[1] = 'HS256': must be one of RS256,")
    one_place = (
        f"{file}:1: auth.issuers[0]: one of jwks_url and jwks_file must be set: where the issuer's public keys are"
    )
    assert problems_of(write(file, ISSUER)) == [one_place]
    assert problems_of(write(file, ISSUER + 'jwks_file = "k"\njwks_url = "https://idp.example/keys"\n')) == [one_place]
    (problem,) = problems_of(write(file, ISSUER + 'jwks_file = "k"\njwks_ca_file = "ca.pem"\n'))
    assert problem.endswith("jwks_ca_file is for jwks_url, which is not set")


@pytest.mark.parametrize(
    "url",
    [
        *("https://idp.example/keys", "https://idp.example:8443/a?b=c", "http://127.0.0.1:8080/jwks", "http://[::1]/k"),
        *("http://localhost/keys", "http://127.9.9.9/keys"),
    ],
)
def test_keys_come_from_an_https_address_or_from_this_machine(tmp_path: Path, url: str) -> None:
    file = write(tmp_path / "g.toml", ISSUER + f'jwks_url = "{url}"\njwks_ca_file = "ca.pem"\n')
    (issuer,) = load_settings(file, environ={}).auth.issuers
    assert (issuer.jwks_url, issuer.jwks_ca_file, issuer.jwks_file) == (url, tmp_path / "ca.pem", None)


@pytest.mark.parametrize(
    "url",
    [
        *("http://idp.example/keys", "http://127.0.0.1.idp.example/k", "http://localhost.idp.example/k", "ftp://x/k"),
        *(
            "http://0.0.0.0/k",
            "http://10.0.0.1/k",
            "https:///keys",
            "https://user@idp.example/k",
            "https://:p@i.example/k",
        ),
        *(
            "https://idp.example/k#f",
            "https://idp.example/a b",
            "https://idp.example:99999/k",
            "https://[::1",
            "idp/keys",
        ),
        *(
            "https://idp.example/\u00fc",
            "https://idp.example/" + "k" * 2048,
            "file:///etc/passwd",
            "HTTP://idp.example/k",
        ),
    ],
)
def test_keys_come_from_nowhere_else(tmp_path: Path, url: str) -> None:
    (problem,) = problems_of(write(tmp_path / "g.toml", ISSUER + f'jwks_url = "{url}"\n'))
    assert "auth.issuers[0].jwks_url" in problem
    assert "must be" in problem


def test_issuers_have_different_names_and_none_is_the_built_in_ones(tmp_path: Path) -> None:
    entry = ISSUER + 'jwks_file = "k"\n'
    (problem,) = problems_of(write(tmp_path / "g.toml", entry + entry))
    assert "name 'idp' is there twice" in problem
    (problem,) = problems_of(write(tmp_path / "g.toml", entry.replace('"idp"', '"builtin"')))
    assert "belongs to the built-in issuer" in problem
    settings = load_settings(write(tmp_path / "g.toml", entry), environ={}, overrides={"auth.builtin.enabled": "true"})
    assert settings.auth.issuer_names() == ("idp", "builtin")


def test_algorithms_are_those_that_the_verifier_knows() -> None:
    assert get_args(Algorithm) == keys.SUPPORTED_ALGORITHMS
    assert IssuerSettings.model_fields["algorithms"].default == keys.DEFAULT_ALGORITHMS


def test_relative_paths_in_a_file_count_from_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "g.toml",
        '[data]\ndir = "d"\n[kafka]\nssl_cafile = "ca.pem"\n[kafka.clusters.eu]\nssl_cafile = "/ca.pem"\n',
    )
    settings = load_settings(file, environ={"GATEWAY_CONTRACTS__DIR": "contracts"})
    assert settings.data.dir == tmp_path / "d"
    assert settings.database.url.get_secret_value() == f"sqlite:///{tmp_path}/d/gateway.db"
    assert settings.kafka.ssl_cafile == tmp_path / "ca.pem"
    assert settings.kafka.clusters["eu"].ssl_cafile == Path("/ca.pem")
    assert settings.contracts.dir == Path("contracts")


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"host": "0.0.0.0", "port": 8000}, "http://localhost:8000"),
        ({"host": "::1", "port": 8000}, "http://[::1]:8000"),
        ({"port": 80}, "http://127.0.0.1"),
        ({"port": 443, "tls_cert_file": "c", "tls_key_file": "k"}, "https://127.0.0.1"),
        ({"public_url": "https://api.example/streams/"}, "https://api.example/streams"),
    ],
)
def test_the_public_url_is_configured_or_derived(values: dict[str, object], url: str) -> None:
    assert HttpSettings.model_validate(values).public_url == url


def test_a_free_port_is_known_only_once_taken_and_a_configured_url_stays() -> None:
    assert HttpSettings(port=0).public_url_at(4567) == "http://127.0.0.1:4567"
    assert HttpSettings(port=0, public_url="https://api.example").public_url_at(4567) == "https://api.example"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[http]\nport = \n", ":2: is not TOML"),
        (b"[http]\nport = 1\nport = 2\n", ":3: is not TOML"),
        (b"\xff\xfe", ": is not UTF-8"),
        (b"http = 3\n", ":1: http = 3: must be a table of settings"),
        (b"[kafka]\nclusters = 3\n", ":2: kafka.clusters = 3: must be tables by name"),
        (b"[kafka.clusters]\neu = 3\n", ":2: kafka.clusters.eu = 3: must be a table of settings"),
        (b"[kafka.clusters.EU]\n", ":1: kafka.clusters.EU: must be a name"),
        (b"[auth]\nissuers = [3]\n", ":2: auth.issuers[0] = 3: must be a table of settings"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "g.toml"
    file.write_bytes(content)
    (problem,) = problems_of(file)
    assert problem.startswith(f"{file}{said}"), problem


def test_lines_are_found_under_every_way_to_write_toml() -> None:
    text = (
        'a.b = 1\n\n# c = 1\n[t]\nx = """\ny = 2\n"""\nl = [\n  {n = 1},\n  {n = 2}, # z = 3\n]\n'
        "[[t.m]]\nk = 1\n[[t.m]]\nk = 2\n"
    )
    lines = dict(find_lines(text))
    assert lines["a", "b"] == 1
    assert lines["t", "x"] == 5
    assert lines["t", "l", 1, "n"] == 8
    assert lines["t", "m", 0, "k"] == 13
    assert lines["t", "m", 1, "k"] == 15
    assert ("t", "y") not in lines


def test_every_setting_says_what_it_means_and_can_be_given_by_a_variable() -> None:
    for key, field in walk_fields(Settings):
        assert field.description, key
        assert field.description.endswith("."), key
        assert spell_variable(key).startswith("GATEWAY_")
        if "<name>" not in key and "[]" not in key:
            assert find_field(key) is field
    assert {row.name for row in describe_settings() if row.secret} == {
        "admin.tokens",
        "alerts.secret",
        "alerts.webhook_url",
        "auth.builtin.sealing_keys",
        "cursor.keys",
        "database.url",
        "kafka.sasl_password",
        "kafka.clusters.<name>.sasl_password",
        "kafka.sasl_oauth_client_secret",
        "kafka.clusters.<name>.sasl_oauth_client_secret",
        "redis.url",
        "redis.sentinel_password",
        "telemetry.otlp_headers",
    }


def test_the_reference_page_is_the_one_that_the_settings_make() -> None:
    page = FOLDER / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run `make docs`"
