"""What an operator changes is followed without delay, whatever else is being asked for at the time."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import yaml

from gateway.auth.revocation import Revocation
from gateway.clock import SystemClock
from gateway.config import load_settings
from gateway.control import Control
from gateway.counters import Counters
from gateway.database.audit import Entry
from gateway.keyring import Keyring
from tests.parts.gateway import contract

LONGEST_SECONDS = 60.0


async def test_an_issuer_that_hangs_holds_up_no_withdrawal_while_a_reload_asks_it(tmp_path: Path) -> None:
    streams = tmp_path / "asyncapi" / "streams"
    streams.mkdir(parents=True)
    (streams / "s.yaml").write_text(yaml.safe_dump(contract("s", "t"), sort_keys=False))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It takes connections and never answers.
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/jwks"
        issuer = {"name": "idp", "issuer": "https://idp.example", "audience": "gateway", "jwks_url": address}
        settings = load_settings(
            None,
            environ={},
            overrides={
                "data.dir": str(tmp_path / "data"),
                "contracts.dir": str(tmp_path / "asyncapi"),
                "kafka.bootstrap_servers": ["127.0.0.1:9"],
                "auth.issuers": [issuer],
                "auth.jwks.timeout_seconds": LONGEST_SECONDS,
            },
        )
        clock = SystemClock()
        keyring = Keyring(settings, clock=clock, counters=Counters())
        control = await asyncio.to_thread(Control, settings, clock=clock, keyring=keyring)
        await control.open()
        taken = asyncio.Event()
        control.on_change.append(taken.set)
        reloading = asyncio.create_task(control.reload())
        try:
            async with asyncio.timeout(LONGEST_SECONDS / 2):
                await taken.wait()
                entry = Entry("2026-11-23T10:00:00.000Z", "ann", "revocation.add", "tenant:acme")
                await control.revoke(Revocation("tenant", "acme", time.time() + 3600), entry)
                await control.catch_up()
            assert len(control.snapshot().revocations) == 1
            assert not reloading.done(), "the issuer has not answered yet"
        finally:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await control.close()
            await keyring.close()
