"""The C programs of the load tests, compiled when first used."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


@functools.cache
def program(name: str, *, tls: bool = False) -> str:
    """Path of the compiled ``<name>.c``. Raises RuntimeError where there is no C compiler or, for TLS, no OpenSSL."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("the load tests need a C compiler (cc); on Debian: apt-get install gcc libc6-dev")
    binary = Path(_folder().name) / (f"{name}-tls" if tls else name)
    command = [compiler, "-O2", "-Wall", "-o", str(binary), str(HERE / f"{name}.c")]
    done = subprocess.run([*command, *(["-DTLS", "-lssl", "-lcrypto"] if tls else [])], check=False)
    if done.returncode != 0:
        hint = "; TLS needs OpenSSL's headers, on Debian: apt-get install libssl-dev" if tls else ""
        raise RuntimeError(f"{name}.c does not compile{hint}")
    return str(binary)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="loadtests-")
