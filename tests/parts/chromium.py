"""Debian's Chromium for tests: found, or installed where that is possible without asking."""

from __future__ import annotations

import os
import shutil
import subprocess

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
        if shutil.which("apt-get") is None:
            raise
    sudo = _sudo()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        command = [*sudo, "apt-get", "-qq", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise PartMissing(f"{' '.join(command)} failed: {' / '.join(said)}")
    return executable()


def _sudo() -> list[str]:
    """What to put before apt-get: nothing as root, sudo where it asks for no password. Raises PartMissing."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    raise PartMissing("Chromium is not installed and neither root nor sudo is at hand; run: apt-get install chromium")
