"""Settings in the form that the adapters ask for; imported only by those who go on to use the adapters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.clock import Clock
from gateway.config.auth import IssuerSettings
from gateway.config.kafka import MAIN_CLUSTER, ClusterSettings
from gateway.config.settings import Settings
from gateway.database.database import Bounds, Database
from gateway.errors import ConfigurationProblems
from gateway.kafka.cluster import ClusterSettings as KafkaClusterSettings
from gateway.kafka.cluster import KafkaCluster
from gateway.kafka.oauth import TokenEndpoint
from gateway.pem import PemFiles

if TYPE_CHECKING:
    from gateway.auth.address import HttpAddress
    from gateway.auth.apart import Apart
    from gateway.auth.issuer_store import IssuerStore
    from gateway.auth.minter import Minter
    from gateway.kafka.producer import Producer
    from gateway.limits.redis import RedisLink
    from gateway.metering.metering import Metering


def kafka_clusters(settings: Settings, *, clock: Clock) -> Mapping[str, KafkaCluster]:
    """Every configured cluster by name, none of them asked for anything yet. Raises ConfigurationProblems where a file
    that the settings name is not what it should be."""
    clusters, problems = {}, []
    for name, cluster in settings.kafka.by_name().items():
        section = "kafka" if name == MAIN_CLUSTER else f"kafka.clusters.{name}"
        ours = kafka_cluster_settings(cluster, section=section)
        try:
            if ours.security_protocol.endswith("SSL"):
                ours.tls.check(
                    ca_setting=f"{section}.ssl_cafile", pair_settings=f"{section}.ssl_certfile and ssl_keyfile"
                )
        except ConfigurationProblems as error:
            problems += error.problems
            continue
        clusters[name] = KafkaCluster(
            ours,
            name=name,
            clock=clock,
            max_record_bytes=settings.stream.max_record_bytes,
            max_batch_bytes=settings.stream.max_batch_bytes,
        )
    if problems:
        raise ConfigurationProblems(problems)
    return clusters


def kafka_cluster_settings(cluster: ClusterSettings, *, section: str = "kafka") -> KafkaClusterSettings:
    """One cluster's settings, secrets opened. ``section`` is where they are."""
    return KafkaClusterSettings(
        bootstrap_servers=",".join(cluster.bootstrap_servers),
        security_protocol=cluster.security_protocol,
        sasl_mechanism=cluster.sasl_mechanism,
        sasl_username=cluster.sasl_username,
        sasl_password=cluster.sasl_password.get_secret_value() if cluster.sasl_password else None,
        tls=PemFiles(_text(cluster.ssl_cafile), _text(cluster.ssl_certfile), _text(cluster.ssl_keyfile)),
        token_endpoint=_token_endpoint(cluster),
        section=section,
    )


def _token_endpoint(cluster: ClusterSettings) -> TokenEndpoint | None:
    url, client, secret = cluster.sasl_oauth_token_url, cluster.sasl_oauth_client_id, cluster.sasl_oauth_client_secret
    if cluster.sasl_mechanism != "OAUTHBEARER" or url is None or client is None or secret is None:
        return None
    return TokenEndpoint(url, client, secret.get_secret_value(), scope=cluster.sasl_oauth_scope)


def usage_producer(settings: Settings, clusters: Mapping[str, KafkaCluster]) -> Producer | None:
    """The usage topic as one that is written to; None where no cluster is configured. Raises ConfigurationProblems."""
    from gateway.kafka.producer import Producer

    name = _usage_cluster(settings, clusters)
    return None if name is None else Producer(clusters[name], settings.metering.topic)


def _usage_cluster(settings: Settings, clusters: Mapping[str, KafkaCluster]) -> str | None:
    wanted = settings.metering.cluster
    if wanted is None:
        return MAIN_CLUSTER if MAIN_CLUSTER in clusters else next(iter(clusters), None)
    if wanted not in clusters:
        known = ", ".join(clusters) or "none"
        raise ConfigurationProblems(
            [f"metering.cluster: no Kafka cluster is named {wanted!r}; allowed: one that is configured: {known}"]
        )
    return wanted


def metering(
    settings: Settings,
    clusters: Mapping[str, KafkaCluster],
    *,
    database: Database,
    run: Callable[..., Awaitable[Any]],
    clock: Clock,
) -> Metering | None:
    """This process's meter with what tells of it, its slab made; None where nothing is to be counted.

    ``run`` has the database's blocking work done. Raises ConfigurationProblems.
    """
    from gateway.kafka.follower import Follower
    from gateway.metering.ledger import Ledger
    from gateway.metering.metering import Metering

    if not settings.metering.enabled:
        return None
    producer = usage_producer(settings, clusters)
    name = _usage_cluster(settings, clusters)
    return Metering(
        settings.data.dir / "metering",
        topic=producer,
        topic_name=settings.metering.topic,
        follower=None if name is None else Follower(clusters[name], settings.metering.topic),
        ledger=Ledger(database),
        run=run,
        clock=clock,
        on_failure=settings.metering.on_failure,
    )


def jwks_address(issuer: IssuerSettings, settings: Settings, *, apart: Apart) -> HttpAddress:
    """Where an issuer's keys are, for one that has ``jwks_url``; not asked yet, and then from the thread ``apart``."""
    # Here and not above: an HTTP client is a tenth of a second of every command's start.
    from gateway.auth.address import HttpAddress

    if issuer.jwks_url is None:
        raise ValueError(f"issuer {issuer.name} has no jwks_url")
    timeout_seconds = settings.auth.jwks.timeout_seconds
    return HttpAddress(issuer.jwks_url, apart=apart, ca_file=issuer.jwks_ca_file, timeout_seconds=timeout_seconds)


def issuer_store(settings: Settings, database: Database) -> IssuerStore | None:
    """Where the built-in issuer keeps keys and secrets; None where it is off."""
    from gateway.auth.issuer_store import PURPOSE, IssuerStore
    from gateway.auth.sealing import Sealer

    builtin = settings.auth.builtin
    if not builtin.is_on:
        return None
    keys = [key.get_secret_value() for key in builtin.sealing_keys]
    return IssuerStore(database, Sealer(keys, purpose=PURPOSE) if keys else None)


def minter(settings: Settings, store: IssuerStore, *, clock: Clock) -> Minter:
    """Who signs tokens of the built-in issuer with the keys in its store. Blocks; see ``Minter``."""
    from gateway.auth.minter import Minter

    builtin = settings.auth.builtin
    longest_seconds = settings.auth.max_token_lifetime_seconds
    return Minter(store, issuer=builtin.issuer, audience=builtin.audience, longest_seconds=longest_seconds, clock=clock)


def database(settings: Settings) -> Database:
    """The configured database, not asked for anything yet. Raises ConfigurationProblems."""
    configured = settings.database
    bounds = Bounds(
        pool_size=configured.pool_size,
        pool_seconds=configured.pool_timeout_seconds,
        connect_seconds=configured.connect_timeout_seconds,
        statement_seconds=configured.statement_timeout_seconds,
    )
    return Database(configured.url.get_secret_value(), bounds=bounds)


def redis_link(settings: Settings) -> RedisLink | None:
    """The configured Redis, not connected to yet; None where there is none. Raises ConfigurationProblems where a file
    that the settings name is not what it should be."""
    from gateway.limits.redis import RedisLink, SentinelUser

    redis = settings.redis
    if redis.url is None:
        return None
    files = PemFiles(_text(redis.ssl_ca_file), _text(redis.ssl_cert_file), _text(redis.ssl_key_file))
    files.check(ca_setting="redis.ssl_ca_file", pair_settings="redis.ssl_cert_file and ssl_key_file")
    password = redis.sentinel_password
    return RedisLink(
        redis.url.get_secret_value(),
        mode=redis.mode,
        nodes=redis.sentinels if redis.mode == "sentinel" else redis.cluster_nodes,
        service=redis.sentinel_service or "",
        sentinel_user=SentinelUser(redis.sentinel_username, password.get_secret_value() if password else None),
        files=files,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
