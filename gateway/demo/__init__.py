"""The demo: the product with all it needs on one machine, real parts over real sockets, and nothing left at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def run(
    *,
    port: int = 8080,
    admin_port: int = 9090,
    data_dir: Path | None = None,
    rate: float = 20.0,
    once: bool = False,
    log_format: Literal["json", "text"] = "text",
) -> int:
    """Run the demo until SIGINT, SIGTERM or SIGHUP and return the exit code: 0 after a clean stop, else 1.

    ``data_dir`` absent is a fresh directory that is removed at the end; ``rate`` is in records per second and topic;
    with ``once`` the player stops after the last record and the gateway goes on serving. Raises ConfigurationProblems
    for what the caller can correct: a busy port, a directory in use, the missing demo extra.
    """
    # Imported here: the broker's process is a module of this package and needs none of it.
    from gateway.demo.stage import Options, perform

    return perform(
        Options(port=port, admin_port=admin_port, data_dir=data_dir, rate=rate, once=once, log_format=log_format)
    )
