"""Node.js and the npm packages that tests run: installed once per checkout, exact versions, no scripts of theirs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.parts.kafka import PartMissing

FOLDER = Path(__file__).with_name("npm")
INSTALLED = Path(__file__).resolve().parents[2] / ".cache" / "npm"
RUN_SECONDS = 120


def packages() -> Path:
    """The folder of the installed packages. Raises PartMissing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise PartMissing("no node and npm in PATH; on Debian: apt-get install nodejs npm")
    INSTALLED.parent.mkdir(parents=True, exist_ok=True)
    with (INSTALLED.parent / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = (FOLDER / "package.json").read_bytes()
        stamp = INSTALLED / "installed.json"
        if stamp.exists() and stamp.read_bytes() == wanted:
            return INSTALLED / "node_modules"
        INSTALLED.mkdir(exist_ok=True)
        (INSTALLED / "package.json").write_bytes(wanted)
        command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PartMissing(f"npm could not install {FOLDER.name}: {(done.stdout + done.stderr).strip()[-500:]}")
        # Written last, so that an interrupted install is never taken for a complete one.
        stamp.write_bytes(wanted)
        return INSTALLED / "node_modules"


@contextmanager
def installed() -> Iterator[Path]:
    """The same as a part to enter."""
    yield packages()


def run_script(name: str, arguments: Sequence[str]) -> str:
    """What a script of the folder prints. Raises PartMissing without Node.js, AssertionError where the script fails."""
    environment = {**os.environ, "NODE_PATH": str(packages())}
    command = [shutil.which("node") or "node", str(FOLDER / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
