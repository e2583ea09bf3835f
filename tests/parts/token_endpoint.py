"""A token endpoint for tests: client credentials (RFC 6749 §4.4), one client, tokens as its owner makes them."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

CLIENT = "gateway"
SECRET = "s3cret/+%"


class TokenEndpoint:
    """``answer`` is what the next requests get: a function that makes the body's members, or a status."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Callable[[], dict[str, Any]] | int = 500
        self.asked: list[dict[str, list[str]]] = []


@contextlib.contextmanager
def token_endpoint() -> Iterator[TokenEndpoint]:
    """A running endpoint on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            endpoint.asked.append(form)
            expected = "Basic " + base64.b64encode(f"{CLIENT}:s3cret%2F%2B%25".encode()).decode()
            status, body = 200, {}
            if self.headers["Authorization"] != expected or form["grant_type"] != ["client_credentials"]:
                status, body = 401, {"error": "invalid_client", "error_description": "wrong " + SECRET}
            elif callable(endpoint.answer):
                body = endpoint.answer()
            else:
                status = endpoint.answer
            text = json.dumps(body).encode()
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = TokenEndpoint(f"http://127.0.0.1:{server.server_port}/token")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
