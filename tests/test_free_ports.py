"""The ports that tests give to the servers they start."""

import subprocess
import sys

from tests.parts.ports import free_port

_MANY = "from tests.parts.ports import free_port\nprint(*(free_port() for _ in range(2_000)), flush=True)\ninput()"


def test_a_port_is_given_away_once_by_all_processes() -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", _MANY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        theirs = [port for one in started if one.stdout for port in one.stdout.readline().split()]
    finally:
        for one in started:
            one.communicate("\n")
    mine = [str(free_port()) for _ in range(100)] + [str(free_port(also=10_000)) for _ in range(10)]
    assert len(theirs) == 4_000
    assert len({*theirs}) == 4_000
    assert len({*mine}) == 110
