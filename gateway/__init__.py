"""A streaming API gateway: internal Kafka topics for external partners."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("streaming-gateway")
