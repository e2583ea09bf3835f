"""A real nginx for tests: found or installed by apt, run with the configuration that deploy/ ships."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.parts import apt
from tests.parts.certificates import make_certificate
from tests.parts.kafka import PartMissing
from tests.parts.ports import free_port
from tests.parts.process import die_with_parent

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "nginx.conf"
START_SECONDS = 15.0


def executable() -> str:
    """nginx, also where only root's PATH has it. Raises PartMissing."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise PartMissing("no nginx in PATH; on Debian: apt-get install nginx-light")
    return found


def install() -> str:
    """nginx, installed by apt if there is none. Raises PartMissing with apt's last words."""
    try:
        return executable()
    except PartMissing:
        apt.install("nginx-light")
    return executable()


@contextlib.contextmanager
def proxy(directory: Path, upstreams: Sequence[str], **directives: str) -> Iterator[str]:
    """The address of an nginx before these ``host:port``, with the shipped configuration but for places and names.

    ``directives`` are given another value than the shipped one. Raises PartMissing.
    """
    program, port = executable(), free_port()
    directory.mkdir()
    cert_file, key_file = make_certificate(directory, name="proxy")
    servers = "\n        ".join(f"server {one} max_fails=1 fail_timeout=5s;" for one in upstreams)
    text = SHIPPED.read_text()
    for shipped, ours in {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/ssl/streams.pem": str(cert_file),
        "/etc/ssl/streams.key": str(key_file),
        "/var/log/nginx": str(directory),
        "/run/nginx.pid": str(directory / "nginx.pid"),
        "server 127.0.0.1:8080 max_fails=1 fail_timeout=5s;": servers,
        "http {": "http {\n" + "".join(f"    {kind}_temp_path {directory / kind};\n" for kind in _TEMPORARY),
    }.items():
        assert text.count(shipped) >= 1, f"{SHIPPED.name} has no {shipped!r} any more"
        text = text.replace(shipped, ours)
    for name, value in directives.items():
        text, count = re.subn(rf"(?m)^(\s*){name} [^;]*;", rf"\1{name} {value};", text)
        assert count == 1, f"{name} stands {count} times in {SHIPPED.name}"
    (directory / "nginx.conf").write_text(text)
    # One process, which ends with the tests; the shipped file says how many there are otherwise.
    main = "daemon off; master_process off;" + (" user root;" if os.geteuid() == 0 else "")
    command = [program, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", main]
    with (directory / "output").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=die_with_parent)
    try:
        _await_listening(process, port, directory)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def _await_listening(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            said = "".join(
                path.read_text() for path in sorted(directory.glob("*")) if path.name in ("output", "error.log")
            )
            raise RuntimeError(f"nginx did not come up:\n{said}")
        time.sleep(0.02)
