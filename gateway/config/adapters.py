"""Settings in the form that the adapters ask for; imported only by those who go on to use the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.clock import Clock
from gateway.config.settings import ClusterSettings, Settings
from gateway.kafka.cluster import ClusterSettings as KafkaClusterSettings
from gateway.kafka.cluster import KafkaCluster


def kafka_clusters(settings: Settings, *, clock: Clock) -> Mapping[str, KafkaCluster]:
    """Every configured cluster by name, none of them asked for anything yet."""
    return {
        name: KafkaCluster(kafka_cluster_settings(cluster), name=name, clock=clock)
        for name, cluster in settings.kafka.by_name().items()
    }


def kafka_cluster_settings(cluster: ClusterSettings) -> KafkaClusterSettings:
    """One cluster's settings, secrets opened."""
    return KafkaClusterSettings(
        bootstrap_servers=",".join(cluster.bootstrap_servers),
        security_protocol=cluster.security_protocol,
        sasl_mechanism=cluster.sasl_mechanism,
        sasl_username=cluster.sasl_username,
        sasl_password=cluster.sasl_password.get_secret_value() if cluster.sasl_password else None,
        ssl_cafile=_text(cluster.ssl_cafile),
        ssl_certfile=_text(cluster.ssl_certfile),
        ssl_keyfile=_text(cluster.ssl_keyfile),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
