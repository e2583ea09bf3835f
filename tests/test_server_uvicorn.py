"""A canary: the classes of uvicorn that ours extend are those that were read when ours were written."""

from __future__ import annotations

import hashlib
import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

READ = {
    FlowControl: "126debcdaa894c83",
    HttpToolsProtocol: "18fdf324b11bf160",
    RequestResponseCycle: "e67d470d435dcc1c",
    ServerState: "f2260fbf10154746",
    WebSocketsSansIOProtocol: "0bbcec98938432f7",
}


def test_uvicorn_is_the_version_we_extend() -> None:
    assert uvicorn.__version__.startswith("0.54."), "read its protocols again before lifting the pin"


@pytest.mark.parametrize("extended", READ, ids=lambda extended: extended.__name__)
def test_a_class_we_extend_has_not_changed(extended: type) -> None:
    digest = hashlib.sha256(inspect.getsource(extended).encode()).hexdigest()[:16]
    assert digest == READ[extended], (
        f"uvicorn's {extended.__qualname__} has changed: compare it with gateway/server (which attributes and calls "
        f"are used, what is replaced), run tests/test_server_*.py, then put {digest} here"
    )
