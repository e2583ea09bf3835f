"""The processes below a process, as Linux tells them."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, dead ones that nobody waited for left out."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (fields := _fields(int(folder.name))):
            parents[int(folder.name)] = int(fields[1])
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor and is_running(child)]
    return found[1:]


def is_running(pid: int) -> bool:
    """Whether there is such a process and it has not ended."""
    fields = _fields(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def command_of(pid: int) -> str:
    """Its command line, empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _fields(pid: int) -> list[str]:
    """State, parent and so on: what follows the command's name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []
