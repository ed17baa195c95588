"""The stage cache as a whole: which stages living runs hold on to, what lies there, and what goes when it is too much.

ROOT/stages/ab/abcd…/   a committed stage with its stage.json
ROOT/tmp/RUN-…          what run RUN is writing
ROOT/pins/RUN/KEY       run RUN has used stage KEY; it lives as long as it holds ROOT/pins/RUN.lock
ROOT/trainings/NAME/    what a training goes on from; in use while somebody holds ROOT/trainings/NAME.lock
ROOT/portraits/NAME/    the same for a neural portrait
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LONG = {"trainings": "training", "portraits": "portrait as drawn"}  # folder of what is gone on with → what it is called


class Upkeep:
    """Of the cache in `root`, for the run `run`. May be used from several threads."""

    def __init__(self, root: Path, run: str) -> None:
        self.root, self._id = root, run
        self._lock = threading.Lock()
        self._pin: FileLock | None = None

    def pin(self, key: str) -> None:
        """Marks a stage as used by this living run, so that no prune takes it away under our hands."""
        pins = self.root / "pins"
        with self._lock:
            if self._pin is None:
                (pins / self._id).mkdir(parents=True, exist_ok=True)
                self._pin = FileLock(pins / f"{self._id}.lock", thread_local=False)
                self._pin.acquire()
        (pins / self._id / key).touch()

    def close(self) -> None:
        """Lets go of the pins. A killed process lets go of them too."""
        if self._pin is not None:
            self._pin.release()
            self._pin = None
            shutil.rmtree(self.root / "pins" / self._id, ignore_errors=True)
            (self.root / "pins" / f"{self._id}.lock").unlink(missing_ok=True)

    def _pinned(self) -> tuple[set[str], set[str]]:
        """(keys in use by living runs, ids of living runs); sweeps what the dead left."""
        keys: set[str] = set()
        alive: set[str] = set()
        for folder in (self.root / "pins").glob("*/"):
            lock = FileLock(folder.with_suffix(".lock"), thread_local=False)
            try:
                if folder.name != self._id:
                    lock.acquire(timeout=0)
                    lock.release()
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.with_suffix(".lock").unlink(missing_ok=True)
                    continue
            except Timeout:
                pass
            alive.add(folder.name)
            keys.update(p.name for p in folder.iterdir())
        return keys, alive

    def entries(self) -> list[dict[str, Any]]:
        """Every cached stage and begun work: name, key, bytes, seconds, used (unix time), folder; least recently used
        first."""
        begun = ((name, folder) for long, name in LONG.items() for folder in (self.root / long).glob("*/"))
        found = [entry for name, folder in begun if (entry := _begun(name, folder))]
        for record_file in (self.root / "stages").glob("*/*/stage.json"):
            try:
                record = json.loads(record_file.read_text(encoding="utf-8"))
                used = record_file.stat().st_mtime
                entry = {k: record[k] for k in ("name", "key", "seconds")}
            except (OSError, ValueError, KeyError):
                continue
            found.append(entry | {"bytes": sum(record["sizes"].values()), "used": used, "folder": record_file.parent})
        return sorted(found, key=lambda e: (e["used"], e["key"]))

    def _in_use(self, work: Path) -> bool:
        """Whether somebody works there now."""
        lock = FileLock(work.with_name(f"{work.name}.lock"), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def prune(self, limit: int) -> int:
        """Removes the least recently used stages until at most `limit` bytes are left; returns the bytes freed.

        Never touches a stage that a living run has used. Also sweeps what killed runs left half-written.
        """
        pinned, alive = self._pinned()
        for leftover in (self.root / "tmp").glob("*"):
            if leftover.name.split("-")[0] not in alive | {self._id}:
                shutil.rmtree(leftover, ignore_errors=True)
        entries = self.entries()
        total, freed = sum(e["bytes"] for e in entries), 0
        for entry in entries:
            if total - freed <= limit:
                break
            if entry["key"] in pinned or (entry["name"] in LONG.values() and self._in_use(entry["folder"])):
                continue
            doomed = self.root / "tmp" / f"{self._id}-gone-{entry['key'][:16]}"
            doomed.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                entry["folder"].rename(doomed)  # gone at once for readers, then deleted
                shutil.rmtree(doomed, ignore_errors=True)
                freed += entry["bytes"]
        return freed


def _begun(name: str, folder: Path) -> dict[str, Any] | None:
    """What lies there, whoever works in it meanwhile; None when it has just gone."""
    size = 0
    try:
        used = folder.stat().st_mtime
    except FileNotFoundError:
        return None
    for where, _, files in os.walk(folder):  # a folder that goes under way is passed over
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                size += (Path(where) / file).stat().st_size
    return {"name": name, "key": folder.name, "seconds": 0.0, "bytes": size, "used": used, "folder": folder}
