"""A disk that is really full: a small file system in memory, mounted for one process alone."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


class SmallDisk:
    """A process that is started with ``within`` in front of its command finds ``size_bytes`` at ``directory``; nobody
    else sees it but through ``fill`` and ``clear``."""

    def __init__(self, directory: Path, *, size_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.within = ["unshare", "-rm", "sh", "-c", _MOUNT, "sh", str(size_bytes), str(directory)]

    def missing(self) -> str | None:
        """Why there can be none here; None: there can."""
        try:
            done = subprocess.run([*self.within, "true"], capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            return "there is no command unshare"
        return None if done.returncode == 0 else f"no file system can be mounted: {done.stderr.strip()}"

    def fill(self, pid: int) -> None:
        """Leave no room to the process."""
        with self._filler(pid).open("ab", buffering=0) as filler:
            for size in (64 * 1024, 4096, 1):
                try:
                    while True:
                        filler.write(b"x" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def clear(self, pid: int) -> None:
        """There is room again."""
        self._filler(pid).unlink()

    def _filler(self, pid: int) -> Path:
        return Path(f"/proc/{pid}/root{self._directory}/filler")
