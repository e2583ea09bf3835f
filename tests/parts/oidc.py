"""An authorization server that is not ours: npm's oidc-provider, whose keys rotate when it is told."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from tests.parts.node import FOLDER, packages
from tests.parts.ports import free_port
from tests.parts.process import die_with_parent

CLIENT_ID = "acme-web"
SECRET = "a secret of the client"
AUDIENCE = "https://gateway.example"
ANSWER_SECONDS = 60.0


@dataclass
class OidcProvider:
    """Its issuer string, and a way to tell it of keys; ``kid`` ends with the algorithm, as in ``one-RS256``."""

    issuer: str
    _process: subprocess.Popen[bytes]
    _output: Path

    def rotate(self, *, signs: str, publishes: list[str]) -> None:
        """Publish these keys and sign with this one, from now on."""
        told, heard = self._process.stdin, self._process.stdout
        assert told is not None and heard is not None
        told.write(json.dumps({"signs": signs, "publishes": publishes}).encode() + b"\n")
        told.flush()
        answer = _line(heard)
        assert answer and json.loads(answer) == {"signs": signs}, self._output.read_text()[-2000:]

    def discover(self) -> dict[str, Any]:
        """What it says of itself (OpenID Connect Discovery)."""
        answer = httpx.get(f"{self.issuer}/.well-known/openid-configuration", trust_env=False, timeout=ANSWER_SECONDS)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def _line(stream: IO[bytes]) -> bytes:
    readable, _, _ = select.select([stream], [], [], ANSWER_SECONDS)
    return stream.readline() if readable else b""


async def ask_token(client: httpx.AsyncClient, endpoint: str, *, resource: str = AUDIENCE) -> str:
    """An access token for client credentials (RFC 6749 §4.4, RFC 8707)."""
    form = {"grant_type": "client_credentials", "scope": "streams:read", "resource": resource}
    answer = await client.post(endpoint, data=form, auth=(CLIENT_ID, SECRET), timeout=ANSWER_SECONDS)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@contextlib.contextmanager
def oidc_provider(directory: Path, *, signs: str) -> Iterator[OidcProvider]:
    """A running one that signs with this key. Raises PartMissing."""
    environment = {**os.environ, "NODE_PATH": str(packages())}
    port, output = free_port(), directory / "oidc-provider.log"
    command = [shutil.which("node") or "node", str(FOLDER / "oidc_provider.mjs")]
    command += [str(port), CLIENT_ID, SECRET, AUDIENCE]
    with output.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            preexec_fn=die_with_parent,
            bufsize=0,
        )
    with process:
        try:
            provider = OidcProvider(f"http://127.0.0.1:{port}", process, output)
            provider.rotate(signs=signs, publishes=[signs])
            yield provider
        finally:
            process.kill()
