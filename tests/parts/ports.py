"""Ports for the servers that tests start: each is given away once, over all processes of a run."""

import contextlib
import random
import socket

# Above those a browser refuses to open (10 080 is the last), and below those that systems give to outgoing connections
# (Linux from 32 768, others from 49 152): one of these could take a port before its server listens.
_LOWEST, _HIGHEST = 11_000, 32_000

_claims: list[socket.socket] = []


def free_port(*, also: int = 0) -> int:
    """A loopback port that nobody listens on and that no other caller gets, in any process, while this one lives; with
    ``also``, the one that many ports above it too."""
    while True:
        port = random.randrange(_LOWEST, _HIGHEST - also)
        with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
            claims = [undo.enter_context(_claimed(number)) for number in {port, port + also}]
            undo.pop_all()
            _claims.extend(claims)
            return port


def _claimed(port: int) -> socket.socket:
    """A port's number is claimed by its UDP side: the servers of tests speak TCP, and the claim of a process ends with
    it. OSError: somebody has it."""
    with contextlib.ExitStack() as undo:
        claim = undo.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        claim.bind(("127.0.0.1", port))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        undo.pop_all()
        return claim
