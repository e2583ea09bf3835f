"""One POST to an operator's system: signed, bounded in time, and to nobody else."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from gateway.alerts.alert import Alert, sign

TIMEOUT_SECONDS: Final = 10.0
_REASON_CHARACTERS: Final = 200


class NotTaken(Exception):
    """The receiver did not take it; the message is for the operator, without the address, which may hold secrets."""


class Webhook:
    """Redirects are not followed, and proxies of the environment not used. 2xx means that it was taken."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._secret = secret.encode()

    async def post(self, alert: Alert, *, now: float) -> None:
        """Raises NotTaken."""
        # Where no alerts are wanted, the client and all that it brings with it are not needed.
        import httpx

        body, at = alert.body(), int(now)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "streaming-gateway",
            "Webhook-Id": alert.id,
            "Webhook-Timestamp": str(at),
            "Webhook-Signature": sign(body, alert_id=alert.id, at=at, secret=self._secret),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                httpx.AsyncClient(verify=self._context(), trust_env=False, follow_redirects=False) as client,
                client.stream("POST", self._url, content=body, headers=headers, timeout=TIMEOUT_SECONDS) as response,
            ):
                status = response.status_code
        except TimeoutError:
            raise NotTaken(f"no answer within {TIMEOUT_SECONDS:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise NotTaken(f"{type(error).__name__}: {error}"[:_REASON_CHARACTERS]) from None
        if not 200 <= status < 300:
            raise NotTaken(f"answered {status}")

    def _context(self) -> ssl.SSLContext | bool:
        return ssl.create_default_context() if self._url.lower().startswith("https:") else False
