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

from vividcover.processes import alive

PREFIX = "vividcover-run-"
OWNED = re.compile(rf"{PREFIX}(\d+)-")


def folder() -> tempfile.TemporaryDirectory[str]:
    """One of this process, whose number is in the name."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")


def sweep() -> None:
    """Removes the folders of processes that are no more."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = OWNED.match(path.name)
        if owner and not alive(int(owner[1])):
            shutil.rmtree(path, ignore_errors=True)
