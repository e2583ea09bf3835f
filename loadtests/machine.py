"""What a process has used of this machine, and what this machine is."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

SERVER_CORE = 0
CLIENT_CORE = 1
_CORES = sorted(os.sched_getaffinity(0))
_PACKAGES = ("uvloop", "uvicorn", "httptools", "websockets", "aiokafka", "msgspec", "sse-starlette", "starlette")


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, user and system, to the nanosecond."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory that is the process's own: without files and shared memory."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside runs on this core, with all its threads; on a machine with one core they share it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CORES[core % len(_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stand_back() -> None:
    """From now on this process runs when nobody else wants its core: for clients whose own speed is not measured."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def allow_many_files() -> None:
    """As many sockets as the system lets us, for this process and those it starts."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def description(*, brokers: str = "one broker") -> str:
    """Processor, kernel and the versions that matter, as Markdown lines."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    gibibytes = int(memory[1]) / 2**20 if memory else 0
    return (
        f"- Machine: {cpu[1] if cpu else platform.processor()}, {os.cpu_count()} cores, {gibibytes:.0f} GiB, "
        f"Linux {platform.release()}; load before the run {os.getloadavg()[0]:.2f}\n"
        f"- Python {platform.python_version()}, {packages}; Apache Kafka 4.1, {brokers}"
    )
