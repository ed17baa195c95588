"""The folder in which a run's child finds its files under their own names, and what a killed child leaves of it.

with folder() as path: …          # removed at the end
sweep()                           # by whoever has killed a child, or starts to work: those of the dead
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

PREFIX = "vividcover-run-"
OWNED = re.compile(rf"{PREFIX}(\d+)-")


def folder() -> tempfile.TemporaryDirectory[str]:
    """One of this process, whose number is in the name."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")


def sweep() -> None:
    """Removes the folders of processes that are no more."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = OWNED.match(path.name)
        if owner and not _alive(int(owner[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
