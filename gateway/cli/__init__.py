"""The command ``gateway``. Commands import what they need when they run, so that ``--help`` answers at once."""

from __future__ import annotations

from gateway.cli.main import main

__all__ = ["main"]
