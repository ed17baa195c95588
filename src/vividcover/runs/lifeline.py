"""A process that must not outlive the one that started it.

    hold(on_message)     # in the child: its stdin is the line; when that ends, the child ends with its whole group

The parent's end of the pipe closes with the parent, however it dies. On Linux the kernel's own signal to the children
of a dead process is the second belt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def hold(on_message: Callable[[bytes], None] | None = None) -> None:
    """Watches stdin in a thread and hands on its lines. At its end: SIGKILL to this process and its group.

    The process must lead a group of its own (`start_new_session=True`).
    """
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: end())
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died while we came up
        end()

    def watch() -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while data := os.read(0, 1 << 16):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if on_message:
                        on_message(line)
        end()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def end() -> None:
    """The end of this process and of everything that it has started in its group."""
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
