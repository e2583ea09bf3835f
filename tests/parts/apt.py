"""Debian's packages for tests: installed where that is possible without asking."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.parts.kafka import PartMissing


def install(package: str) -> None:
    """Install a package by apt. Raises PartMissing with the command to type, or with apt's last words."""
    if shutil.which("apt-get") is None:
        raise PartMissing(f"{package} is not installed, and there is no apt-get")
    sudo = _sudo(package)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
        command = [*sudo, "apt-get", "-qq", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise PartMissing(f"{' '.join(command)} failed: {' / '.join(said)}")


def _sudo(package: str) -> list[str]:
    """What to put before apt-get: nothing as root, sudo where it asks for no password. Raises PartMissing."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    raise PartMissing(
        f"{package} is not installed and neither root nor sudo is at hand; run: apt-get install {package}"
    )
