"""A headless Chromium that runs JavaScript on a page, steered through its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.parts.chromium import install
from tests.parts.kafka import eventually
from tests.parts.process import die_with_parent

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
START_SECONDS = 60
ANSWER_SECONDS = 40


@contextlib.contextmanager
def browser() -> Iterator[str]:
    """A running browser's DevTools address. Raises PartMissing."""
    program = install()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        log = Path(profile) / "stderr"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, *FLAGS, f"--user-data-dir={profile}/data", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = log.read_text(errors="replace")
        found = re.search(r"DevTools listening on (ws://\S+)", said)
        if found:
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Chromium did not start:\n{said[-3000:]}")
        time.sleep(0.05)


class Page:
    """One tab."""

    def __init__(self, devtools: ClientConnection, session: str) -> None:
        self._devtools = devtools
        self._session = session
        self._numbers = itertools.count(1000)

    async def run(self, script: str) -> Any:
        """What the body of an async function returns, by way of JSON. A script that throws fails."""
        answer = await self.ask(
            "Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def is_complete_at(self, origin: str) -> bool:
        """Whether a page of this origin is there."""
        here = await self.run("return [location.origin, document.readyState]")
        return bool(here == [origin, "complete"])

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await _ask(self._devtools, next(self._numbers), method, parameters, session=self._session)


@contextlib.asynccontextmanager
async def page(devtools_url: str, url: str) -> AsyncIterator[Page]:
    """A tab that has loaded ``url``, whatever its status: scripts run there have its origin."""
    async with connect(devtools_url, max_size=None, proxy=None) as devtools:
        target = (await _ask(devtools, 1, "Target.createTarget", {"url": "about:blank"}))["targetId"]
        attached = await _ask(devtools, 2, "Target.attachToTarget", {"targetId": target, "flatten": True})
        tab = Page(devtools, attached["sessionId"])
        loaded = await tab.ask("Page.navigate", url=url)
        assert "errorText" not in loaded, loaded
        await eventually(lambda: tab.is_complete_at("/".join(url.split("/")[:3])), seconds=ANSWER_SECONDS)
        try:
            yield tab
        finally:
            await _ask(devtools, 3, "Target.closeTarget", {"targetId": target})


async def _ask(
    devtools: ClientConnection, number: int, method: str, parameters: dict[str, Any], *, session: str | None = None
) -> dict[str, Any]:
    message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
    await devtools.send(json.dumps(message))
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            answer = json.loads(await devtools.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
