"""How a real part's process is bound to the test run."""

from __future__ import annotations

import ctypes
import signal


def die_with_parent() -> None:
    """In the child, before exec: SIGKILL when the test process goes away, however it goes (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # A run that a shell put into the background is deaf to Ctrl-C, and its children would be too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
