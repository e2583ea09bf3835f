"""Traces as the settings ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import __version__
from gateway.config.settings import Settings
from gateway.errors import ConfigurationProblems

if TYPE_CHECKING:
    from gateway.observability.telemetry import Telemetry


def telemetry(settings: Settings) -> Telemetry | None:
    """None where no endpoint is configured. Raises ConfigurationProblems where the packages are not installed."""
    configured = settings.telemetry
    if configured.otlp_endpoint is None:
        return None
    try:
        from gateway.observability.telemetry import Telemetry
    except ImportError as error:
        raise ConfigurationProblems(
            [
                f"telemetry.otlp_endpoint: traces need the OpenTelemetry packages ({error.name or error} is missing). "
                "Install them with: pip install 'streaming-gateway[otel]'; or take the setting out."
            ]
        ) from error
    return Telemetry(
        configured.otlp_endpoint,
        headers=configured.headers(),
        sample_ratio=configured.sample_ratio,
        service_name=configured.service_name,
        version=__version__,
        trusted_callers=configured.trusted_callers,
    )
