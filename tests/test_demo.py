"""``gateway demo`` as whoever types it sees it: a process, its files, its page, its ports, and nothing left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from gateway.demo.recordings import RECORDINGS, read_records
from tests.parts.family import command_of, descendants, is_running

QUAKES, FLIGHTS = RECORDINGS
GATEWAY = str(Path(sys.executable).with_name("gateway"))
START_SECONDS = 60
FREE_PORTS = ("--port", "0", "--admin-port", "0")


class Demo:
    """A running demo: its process, what demo.json says, and where it writes."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, output: Path) -> None:
        self.process = process
        self.directory = directory
        self.output = output
        self.report: dict[str, Any] = {}

    def wait_ready(self) -> None:
        path = self.directory / "demo.json"
        wait_until(lambda: path.exists() or self.process.poll() is not None, seconds=START_SECONDS)
        assert self.process.poll() is None, self.output.read_text()
        self.report = json.loads(path.read_text())

    def get(self, path: str, *, tenant: str = "acme") -> tuple[int, Any]:
        token = self.report["tenants"][tenant]["token"]
        return get(self.report["base_url"] + path, token=token)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def get(url: str, *, token: str | None = None) -> tuple[int, Any]:
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=40) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())


def wait_until(condition: Any, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_still(value: Any, *, seconds: float) -> None:
    """Return when the value has stopped to grow: it stayed what it was for so long."""
    last, since = value(), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        if (now := value()) != last:
            last, since = now, time.monotonic()
        return last > 0 and time.monotonic() - since > seconds

    wait_until(still, seconds=30)


def delivered_bytes(one: Demo) -> float:
    with urlopen(one.report["admin_url"] + "/metrics", timeout=10) as answer:
        samples = re.findall(r"^gateway_delivered_bytes_total\S* (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, samples))


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    """A demo with ``directory`` as its data directory, ready."""
    with started("--data-dir", str(directory), *arguments, directory=directory) as running:
        running.wait_ready()
        yield running


@contextmanager
def started(*arguments: str, directory: Path) -> Iterator[Demo]:
    output = directory.with_name(f"{directory.name}.out")
    with output.open("wb") as file:
        process = subprocess.Popen([GATEWAY, "demo", *FREE_PORTS, *arguments], stdout=file, stderr=subprocess.STDOUT)
    try:
        yield Demo(process, directory, output)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("demo") / "data", "--rate", "50") as one:
        yield one


def refused(*arguments: str) -> str:
    """What a demo that must not start says, on stderr; it ends with 2."""
    ended = subprocess.run([GATEWAY, "demo", *arguments], capture_output=True, text=True, timeout=START_SECONDS)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    return ended.stderr


def test_the_report_names_everything_and_is_private(running: Demo) -> None:
    path = running.directory / "demo.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    report = running.report
    assert list(report) == [
        "base_url",
        "admin_url",
        "portal_url",
        "kafka",
        "redis_url",
        "database_url",
        "admin_token",
        "tenants",
    ]
    assert {name: sorted(tenant) for name, tenant in report["tenants"].items()} == {
        "acme": ["client_id", "login_url", "token"],
        "globex": ["client_id", "login_url", "token"],
    }
    assert report["tenants"]["acme"]["client_id"] == "acme-web"
    assert report["portal_url"] is None
    assert report["database_url"] == f"sqlite:///{running.directory}/gateway.db"
    assert stat.S_IMODE((running.directory / "acme.token").stat().st_mode) == 0o600


def test_it_is_ready_when_the_report_is_there(running: Demo) -> None:
    status, body = get(running.report["admin_url"] + "/readyz")
    assert (status, body["status"]) == (200, "ready")


def test_the_first_records_are_real_earthquakes_and_more_come_in(running: Demo) -> None:
    first = {key.decode() for key, _ in read_records(QUAKES.path, key="id")[:500]}
    later = {key.decode() for key, _ in read_records(QUAKES.path, key="id")[500:]}
    seen: set[str] = set()
    path = "/v1/streams/earthquakes/records?limit=1000&from=earliest"
    deadline = time.monotonic() + 30
    while not (first <= seen and seen & later):
        assert time.monotonic() < deadline, f"{len(first - seen)} of the first are missing, {len(seen & later)} later"
        status, body = running.get(path)
        assert status == 200, body
        seen |= {record["key"] for record in body["records"]}
        path = f"/v1/streams/earthquakes/records?limit=1000&wait=2&cursor={quote(body['next_cursor'])}"
    assert seen <= first | later


def test_acme_reads_the_flights_of_its_own_airport_only(running: Demo) -> None:
    expected = [json.loads(value) for key, value in read_records(FLIGHTS.path, key="origin")[:500] if key == b"ORD"]
    status, body = running.get("/v1/streams/flights/records?from=earliest&limit=1000")
    assert status == 200, body
    found = [record["data"] for record in body["records"]]
    assert found[: len(expected)] == expected
    assert {flight["origin"] for flight in found} == {"ORD"}


def test_globex_has_earthquakes_and_no_flights(running: Demo) -> None:
    status, body = running.get("/v1/streams/earthquakes/records?from=earliest&limit=1", tenant="globex")
    assert status == 200
    assert len(body["records"]) == 1
    status, body = running.get("/v1/streams/flights/records", tenant="globex")
    assert (status, body["code"]) == (404, "stream_not_found")


def test_the_page_is_short_and_each_of_its_lines_works_pasted_alone(running: Demo, tmp_path: Path) -> None:
    page = running.output.read_text().partition("good for 24 hours)")[0]
    assert len(page.splitlines()) <= 40
    commands = [
        line for line in re.findall(r"^  (\S*(?:curl|gateway) .*)$", page, re.MULTILINE) if "CURSOR" not in line
    ]
    expected = ['"place"', '"place"', '"place"', '"place"', '"origin":"ORD"', '"flights"']
    expected += ['"records_per_second"', "from,to,stream,", '"DRAFT"', '"statements"']
    assert len(commands) == len(expected)
    for command, text in zip(commands, expected, strict=True):
        first_lines(command, text, cwd=tmp_path)


def test_the_page_shows_how_to_go_on_over_another_protocol(running: Demo, tmp_path: Path) -> None:
    both = re.search(r"^  CURSOR=.*\n  curl .*$", running.output.read_text(), re.MULTILINE)
    assert both is not None
    three = running.get("/v1/streams/earthquakes/records?from=earliest&limit=4")[1]["records"]
    lines = first_lines(both[0], '"uid"', cwd=tmp_path)
    assert json.loads(lines[-1].removeprefix("data: "))["uid"] not in {record["uid"] for record in three[:3]}


def first_lines(command: str, expected: str, *, cwd: Path) -> list[str]:
    """What a shell prints for the command until a line holds ``expected``; then the command is ended."""
    shell = subprocess.Popen(
        ["bash", "-c", command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert shell.stdout is not None
    lines: list[str] = []
    try:
        for line in shell.stdout:
            lines.append(line)
            if expected in line:
                return lines
        pytest.fail(f"{command} printed no {expected}: {lines[-5:]}")
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.stdout.close()
        shell.wait()


def test_two_demos_run_side_by_side(running: Demo, tmp_path: Path) -> None:
    with demo(tmp_path / "other") as other:
        assert other.report["base_url"] != running.report["base_url"]
        assert other.get("/v1/streams")[0] == running.get("/v1/streams")[0] == 200
        token = other.report["tenants"]["acme"]["token"]
        assert get(running.report["base_url"] + "/v1/streams", token=token)[0] == 401


def test_a_data_directory_in_use_is_refused(running: Demo) -> None:
    said = refused(*FREE_PORTS, "--data-dir", str(running.directory))
    assert said == f"gateway: --data-dir {running.directory}: another demo runs there\n"
    assert (running.directory / "demo.json").exists()


@pytest.mark.parametrize("name", ["--port", "--admin-port"])
def test_a_busy_port_is_one_line_and_starts_nothing(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(*FREE_PORTS, name, str(port), "--data-dir", str(tmp_path / "data"))
    assert said.count("\n") == 1
    assert f"{name}: cannot listen on 127.0.0.1:{port}: address already in use" in said
    assert not (tmp_path / "data").exists()


def test_one_port_for_both_is_refused() -> None:
    assert "must differ" in refused("--port", "18080", "--admin-port", "18080")


def test_a_rate_that_is_no_number_is_refused() -> None:
    assert "--rate" in refused(*FREE_PORTS, "--rate", "nan")


def test_without_the_extra_it_says_how_to_install_it() -> None:
    program = "import sys; sys.modules['confluent_kafka'] = None; from gateway.cli import main; main(['demo'])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=START_SECONDS)
    assert ended.returncode == 2
    assert ended.stderr == (
        "gateway: the demo needs confluent_kafka: pip install 'streaming-gateway[demo]' brings it\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_takes_the_directory_away(number: signal.Signals, tmp_path: Path) -> None:
    with started(directory=tmp_path / "none") as one:
        wait_until(lambda: "demo.json" in one.output.read_text() or one.process.poll() is not None, seconds=30)
        place = re.search(r"(\S+)/demo\.json", one.output.read_text())
        assert place is not None, one.output.read_text()
        directory = Path(place[1])
        assert (directory / "demo.json").exists()
        children = descendants(one.process.pid)
        commands = " ".join(command_of(pid) for pid in children)
        assert "redis-server" in commands
        assert "gateway.demo.broker" in commands
        assert one.stop(number) == 0
    assert not directory.exists()
    wait_until(lambda: not any(is_running(pid) for pid in children))


def test_a_stop_leaves_a_given_directory_without_what_names_a_running_demo(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as one:
        assert one.stop() == 0
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert "gateway.db" in left
    assert not {name for name in left if name == "demo.json" or name.endswith(".token")}


def test_open_streams_hear_goodbye_when_it_stops(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as one:
        token = one.report["tenants"]["acme"]["token"]
        url = one.report["base_url"] + "/v1/streams/earthquakes/ndjson"
        with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=30) as stream:
            assert json.loads(stream.readline())["type"] == "welcome"
            one.process.send_signal(signal.SIGINT)
            last = [json.loads(line) for line in stream if line.strip()][-1]
        assert (last["type"], last["code"]) == ("goodbye", "draining")
        assert one.process.wait(30) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with demo(tmp_path / "data", "--rate", "20000") as one, socket.socket() as deaf:
        # A reader that takes nothing holds the drain up.
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = one.report["base_url"].removeprefix("http://").partition(":")
        deaf.connect((host, int(port)))
        token = one.report["tenants"]["acme"]["token"]
        path = "/v1/streams/earthquakes/sse?from=earliest"
        deaf.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        assert deaf.recv(15) == b"HTTP/1.1 200 OK"
        wait_until_still(lambda: delivered_bytes(one), seconds=0.5)
        children = descendants(one.process.pid)
        one.process.send_signal(signal.SIGINT)
        wait_until(lambda: "draining" in one.output.read_text())
        assert one.stop() == 1
        assert one.output.read_text().endswith("gateway: ended at once\n")
        assert "Traceback" not in one.output.read_text()
        wait_until(lambda: not any(is_running(pid) for pid in children))


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as one:
        children = descendants(one.process.pid)
        assert len(children) >= 3
        one.process.kill()
        one.process.wait()
        wait_until(lambda: not any(is_running(pid) for pid in children))


def test_a_signal_during_the_start_ends_it_too(tmp_path: Path) -> None:
    with started("--data-dir", str(tmp_path / "data"), directory=tmp_path / "data") as one:
        wait_until(lambda: descendants(one.process.pid) or one.process.poll() is not None, seconds=30)
        children = descendants(one.process.pid)
        assert one.stop() == 0
        wait_until(lambda: not any(is_running(pid) for pid in children))


def test_the_demo_ends_when_its_kafka_dies(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as one:
        (broker,) = [pid for pid in descendants(one.process.pid) if "gateway.demo.broker" in command_of(pid)]
        os.kill(broker, signal.SIGKILL)
        assert one.process.wait(30) == 1
        assert "gateway: the embedded Kafka ended by itself" in one.output.read_text()


def test_the_demo_goes_on_when_its_redis_dies(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as one:
        (redis,) = [pid for pid in descendants(one.process.pid) if re.match(r"\S*redis-server ", command_of(pid))]
        os.kill(redis, signal.SIGKILL)
        readyz = one.report["admin_url"] + "/readyz"
        wait_until(lambda: get(readyz)[1]["status"] == "degraded", seconds=30)
        assert one.get("/v1/streams/earthquakes/records?from=earliest&limit=1")[0] == 200
        assert one.stop() == 0


def test_a_cursor_of_an_earlier_run_meets_a_gap_and_no_foreign_records(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as one:
        cursor = one.get("/v1/streams/earthquakes/records?from=earliest&limit=3")[1]["next_cursor"]
        assert one.stop() == 0
    with demo(tmp_path / "data") as again:
        status, body = again.get(f"/v1/streams/earthquakes/records?cursor={quote(cursor)}")
        assert status == 200, body
        assert [gap["reason"] for gap in body["gaps"]] == ["history_changed"]
