"""Debian's Chromium for tests: found, or installed where that is possible without asking."""

from __future__ import annotations

import shutil

from tests.parts import apt
from tests.parts.kafka import PartMissing

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """The browser's program. Raises PartMissing."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    raise PartMissing(f"none of {', '.join(NAMES)} in PATH; on Debian: apt-get install chromium")


def install() -> str:
    """The browser's program, installed by apt if there is none. Raises PartMissing with apt's last words."""
    try:
        return executable()
    except PartMissing:
        apt.install("chromium")
    return executable()
