"""The issuers' keys of one process: files read as a whole, addresses followed while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.auth.apart import Apart
from gateway.auth.authority import Authority
from gateway.auth.issuer import ALGORITHM, BUILTIN, KEY_FILE, DevelopmentIssuer
from gateway.auth.keys import KeySource, load_jwks_file
from gateway.auth.signing import Joined, SigningKeys
from gateway.auth.tokens import IssuerSettings, TokenVerifier
from gateway.clock import Clock
from gateway.config import Settings
from gateway.config.auth import IssuerSettings as ConfiguredIssuer
from gateway.counters import Counters
from gateway.errors import ConfigurationProblems
from gateway.observability.health import Check, Level, Status

if TYPE_CHECKING:
    from gateway.auth.remote import RemoteKeys


class Keyring:
    """Makes verifiers. What was fetched outlives a reload; what is in files is read anew with each verifier."""

    def __init__(self, settings: Settings, *, clock: Clock, counters: Counters) -> None:
        self._settings = settings
        self._clock = clock
        self._counters = counters
        self._apart = Apart()
        longest_seconds = settings.auth.max_token_lifetime_seconds
        self.signing = (
            SigningKeys(clock=clock, longest_seconds=longest_seconds) if settings.auth.builtin.is_on else None
        )
        """The built-in issuer's keys, which whoever has the database puts here."""
        self.authority = None if self.signing is None else _authority(settings, self.signing, clock=clock)
        """Gives tokens away, where the settings say so."""
        if self.authority is not None:
            # There with zero from the first scrape on.
            counters.tokens_issued["issued"] += 0
        self._remote = {
            one.name: _follow(one, settings, apart=self._apart, clock=clock, counters=counters)
            for one in settings.auth.issuers
            if one.jwks_url is not None
        }

    def load(self) -> TokenVerifier:
        """A verifier for all issuers. Blocks for the files; raises ConfigurationProblems with all that is wrong."""
        settings = self._settings.auth
        problems: list[str] = []
        issuers: list[IssuerSettings] = []
        for one in settings.issuers:
            try:
                issuers.append(_accepted(one, self._keys_of(one)))
            except ConfigurationProblems as error:
                problems += error.problems
        if problems:
            raise ConfigurationProblems(problems)
        if self.signing is not None:
            issuers.append(self._builtin(self.signing))
        return TokenVerifier(
            issuers,
            clock=self._clock,
            max_token_lifetime_seconds=settings.max_token_lifetime_seconds,
            leeway_seconds=settings.leeway_seconds,
            remembered_tokens=settings.remembered_tokens,
            checks=self._counters.tokens_accepted,
        )

    def _builtin(self, signing: SigningKeys) -> IssuerSettings:
        builtin, data_dir = self._settings.auth.builtin, self._settings.data.dir
        keys: KeySource = signing
        if builtin.enabled and (data_dir / KEY_FILE).exists():
            # The demo's, whose tokens are made before there is a database.
            own = DevelopmentIssuer(data_dir, issuer=builtin.issuer, audience=builtin.audience, clock=self._clock)
            keys = Joined(own.keys(), signing)
        return IssuerSettings(
            name=BUILTIN, issuer=builtin.issuer, audience=builtin.audience, keys=keys, algorithms=(ALGORITHM,)
        )

    def _keys_of(self, issuer: ConfiguredIssuer) -> KeySource:
        if issuer.jwks_file is not None:
            return load_jwks_file(issuer.jwks_file, algorithms=issuer.algorithms)
        return self._remote[issuer.name]

    async def follow(self) -> None:
        """Keep what comes from addresses fresh, until cancelled; no issuer waits for another."""
        if self._remote:
            await asyncio.gather(*(keys.run() for keys in self._remote.values()))

    async def refresh(self) -> None:
        """Ask every address now and wait for the answers. One that fails is told in the log and in ``checks``."""
        await asyncio.gather(*(keys.refresh() for keys in self._remote.values()))

    async def close(self) -> None:
        """Ask nobody any more."""
        await asyncio.gather(*(keys.close() for keys in self._remote.values()))
        await self._apart.close()
        if self.authority is not None:
            await self.authority.close()

    def checks(self) -> list[Check]:
        """For readiness: a row for each address, and whether there is any key at all to let somebody in by."""
        rows = [Check(f"keys:{name}", required=False, status=_row(keys)) for name, keys in self._remote.items()]
        if len(self._remote) < len(self._settings.auth.issuer_names()) or not rows:
            return rows
        return [*rows, Check("keys", required=True, status=self._any)]

    def _any(self) -> Status:
        if any(keys.status().keys for keys in self._remote.values()):
            return Status("ok")
        return Status("down", "no issuer's keys could be fetched: no token can be accepted")


def _authority(settings: Settings, keys: SigningKeys, *, clock: Clock) -> Authority | None:
    builtin = settings.auth.builtin
    if not builtin.token_endpoint:
        return None
    return Authority(
        keys,
        issuer=builtin.issuer,
        audience=builtin.audience,
        token_seconds=builtin.token_seconds,
        clock=clock,
    )


def _row(keys: RemoteKeys) -> Callable[[], Status]:
    def status() -> Status:
        found = keys.status()
        age = None if found.age_seconds is None else round(found.age_seconds, 1)
        level: Level = "down" if not found.keys else "degraded" if found.reason else "ok"
        return Status(level, found.reason, {"keys": found.keys, "fetched_seconds_ago": age})

    return status


def _follow(
    issuer: ConfiguredIssuer, settings: Settings, *, apart: Apart, clock: Clock, counters: Counters
) -> RemoteKeys:
    # Here and not above: the HTTP client is loaded where an address is configured, and nowhere else.
    from gateway.auth.remote import RefreshRules, RemoteKeys
    from gateway.config.adapters import jwks_address

    rules = settings.auth.jwks
    return RemoteKeys(
        jwks_address(issuer, settings, apart=apart),
        name=issuer.name,
        algorithms=issuer.algorithms,
        clock=clock,
        rules=RefreshRules(
            cooldown_seconds=rules.cooldown_seconds,
            refresh_seconds=rules.refresh_seconds,
            stale_seconds=rules.stale_seconds,
        ),
        fetches=counters.key_fetches,
    )


def _accepted(issuer: ConfiguredIssuer, keys: KeySource) -> IssuerSettings:
    return IssuerSettings(
        name=issuer.name,
        issuer=issuer.issuer,
        audience=issuer.audience,
        keys=keys,
        algorithms=issuer.algorithms,
        require_typ=issuer.require_typ,
        client_id_claim=issuer.client_id_claim,
        token_id_claim=issuer.token_id_claim,
        scope_claim=issuer.scope_claim,
    )
