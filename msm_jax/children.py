"""Processes started by another one."""

import ctypes
import signal
import sys


def die_with_parent() -> None:
    """Called in a child: the system kills it when its parent ends, however that ends. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
