"""``python -m tests.parts.garbage ANSWER python -m gateway …``: a gateway that tells what is left to its collector.

``Garbage`` is the test's side of it. Each time that ANSWER's ``.ask`` appears, what has become garbage since the last
time is collected and named in ANSWER; between two questions the collector is off.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_PATIENCE_SECONDS = 60


class Garbage:
    """What a gateway leaves to its collector; ``within`` starts it so (see ``GatewayProcess``)."""

    def __init__(self, directory: Path) -> None:
        self._answer = directory / "garbage.json"

    @property
    def within(self) -> Sequence[str]:
        return [sys.executable, "-m", __name__, str(self._answer)]

    def ask(self) -> Counter[str]:
        """What has become garbage since this was last asked, by what it is: of modules or of types."""
        self._answer.unlink(missing_ok=True)
        self._answer.with_suffix(".ask").touch()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._answer.exists():
            assert time.monotonic() < deadline, "no answer about garbage"
            time.sleep(0.02)
        return Counter(json.loads(self._answer.read_text()))


def _name(found: object) -> str:
    """Where it is from, as far as it tells: of code its module, of anything else that of its type."""
    if isinstance(found, types.FunctionType):
        return f"{found.__module__}.{found.__qualname__}"
    if isinstance(found, types.MethodType):
        return _name(found.__func__)
    if isinstance(found, types.CoroutineType):
        return f"{_file(found.cr_code)} {found.__qualname__}"
    if isinstance(found, types.FrameType):
        return f"{_file(found.f_code)} {found.f_code.co_qualname}"
    return f"{type(found).__module__}.{type(found).__qualname__}"


def _file(code: types.CodeType) -> str:
    return ".".join(Path(code.co_filename).with_suffix("").parts[-3:])


def _tell(answer: Path) -> None:
    ask, fresh = answer.with_suffix(".ask"), answer.with_suffix(".new")
    while True:
        time.sleep(0.02)
        if ask.exists():
            ask.unlink()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = Counter(_name(one) for one in gc.garbage)
            gc.set_debug(0)
            gc.garbage.clear()
            gc.collect()
            fresh.write_text(json.dumps(found))
            fresh.rename(answer)


def _run() -> None:
    from gateway.cli import main

    # ANSWER, then the command as it would be without this: an interpreter, -m, the gateway, its arguments.
    _, answer, _, _, program, *arguments = sys.argv
    threading.Thread(target=_tell, args=(Path(answer),), daemon=True).start()
    main(arguments, prog_name=program)


if __name__ == "__main__":
    _run()
