"""What the connections of one listener share."""

from __future__ import annotations

import logging

from uvicorn.server import ServerState

from gateway.server.again import Lane
from gateway.server.bounds import ConnectionBounds

# uvicorn writes request targets, query strings with tickets included, at INFO. Its warnings and errors hold none.
logger = logging.getLogger("gateway.server.uvicorn")
logger.setLevel(logging.WARNING)


class ConnectionState(ServerState):
    """uvicorn's record of connections and tasks, plus the bounds every connection reads."""

    def __init__(self, bounds: ConnectionBounds, *, write_buffer_high_bytes: int) -> None:
        super().__init__()
        self.bounds = bounds
        self.lane = Lane()
        self.write_buffer_high_bytes = write_buffer_high_bytes
