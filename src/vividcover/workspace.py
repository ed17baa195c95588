"""Stages: named, cached, resumable pieces of work (contract 1 of docs/architecture).

    result = workspace.stage(
        "song/separate", version=1, inputs={"song": song_wav}, params={"recipe": "auto"},
        compute=lambda stage: separate(song_wav, stage.folder, reporter=stage),
    )
    result.path("vocals.wav")

The work is keyed by sha256(name, version, hashes of the inputs, params). A hit returns the stored files; a miss
computes into a temporary folder which is then renamed into place, so a reader sees a whole stage or none, and
`kill -9` costs at most the stage that was running. Two processes that want the same stage compute it once: the
second waits. This is also the only window through which core code reports progress and learns that it was canceled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout

from vividcover.errors import Canceled, VividCoverError
from vividcover.files import canonical, publish, sha256_file, storage_errors, write_durably, write_text
from vividcover.memory import give_back, settle
from vividcover.threads import one_blas_thread
from vividcover.upkeep import Upkeep

__all__ = [
    "Event", "Reporter", "Silent", "Stage", "StageResult", "Workspace", "canonical", "publish", "sha256_file",
    "storage_errors", "write_text",
]  # fmt: skip
FORMAT = 1  # of the cache's layout; part of every key


class Reporter(Protocol):
    """What core code sees of the outside world. `progress` and `check` are the safe points for cancelling."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the work is, 0..1. Raises `Canceled`."""

    def check(self) -> None:
        """Raises `Canceled` if the user wants to stop. Cheap: call it at least every half second of work."""

    def note(self, message: str) -> None:
        """Say something that the user should read (a choice made, an input that was mended, a value ignored)."""


class Silent:
    """A `Reporter` for notebooks and tests: says nothing, is never canceled; keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, fraction: float, text: str = "") -> None: ...

    def check(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


class Shared(Protocol):
    """Finished stages beyond this cache, which workspaces on other machines use too.

    A stage is a folder with its files and `stage.json`, whose `files` maps each name to the sha256.
    """

    def get(self, key: str, folder: Path) -> bool:
        """Puts the stage into an empty folder; False: it is not there. Raises errors of `vividcover.errors`."""

    def put(self, key: str, folder: Path) -> None:
        """Offers a stage that was just used. Comes back at once and raises nothing: it may be sent later, or not."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a run's story, as handed to `Workspace(on_event=…)`, possibly from several threads."""

    kind: Literal["start", "wait", "progress", "hit", "done", "failed", "note"]
    stage: str
    fraction: float = 0.0  # of this stage
    text: str = ""
    eta: float | None = None  # seconds left in this stage
    overall: float | None = None  # fraction of the whole run, when `expect` was called
    overall_eta: float | None = None  # seconds left in the whole run
    elapsed: float = 0.0  # seconds since the stage began


@dataclass(frozen=True, slots=True)
class StageResult:
    """A committed stage. `files` maps name → sha256; `meta` is what the stage chose to remember (JSON)."""

    name: str
    key: str
    folder: Path
    files: Mapping[str, str]
    meta: Mapping[str, Any]
    seconds: float  # what it cost when it was computed
    hit: bool = False

    def path(self, name: str) -> Path:
        if name not in self.files:
            raise KeyError(f"stage {self.name} made {sorted(self.files)}, not {name!r}")
        return self.folder / name

    def has(self, name: str) -> bool:
        return name in self.files


class Stage:
    """The inside of a running stage: a folder to write into, a dict to remember in, and a `Reporter`."""

    def __init__(self, workspace: Workspace, name: str, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = {}
        self._workspace, self._name, self._began, self._said = workspace, name, time.monotonic(), 0.0

    def progress(self, fraction: float, text: str = "") -> None:
        self.check()
        now = time.monotonic()
        fraction = min(max(float(fraction), 0.0), 1.0)
        if fraction < 1.0 and now - self._said < 0.1:
            return
        self._said = now
        elapsed = now - self._began
        eta = elapsed * (1 - fraction) / fraction if fraction > 0.01 else None
        self._workspace._emit("progress", self._name, fraction, text, eta=eta, elapsed=elapsed)

    def check(self) -> None:
        self._workspace.check()

    def note(self, message: str) -> None:
        self.meta.setdefault("notes", []).append(message)
        self._workspace._emit("note", self._name, text=message)


@dataclass
class Workspace:
    """A cache folder, and the run that uses it.

    `on_event` receives `Event`s. `cancel()` may be called from any thread or signal handler.
    `limit` is the bytes that the cache may hold after a stage is added (0 = no limit). `shared` is asked for a stage
    before it is computed, and is given those that were.
    """

    root: Path
    on_event: Callable[[Event], None] | None = None
    limit: int = 0
    shared: Shared | None = None
    results: list[StageResult] = field(default_factory=list)  # in the order they were finished, for provenance

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        self._canceled = False
        self._abort = False  # while a failed branch's siblings are being stopped
        self._lock = threading.Lock()
        self._expected: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._id = secrets.token_hex(16)
        self._upkeep = Upkeep(self.root, self._id)

    # --- reporting and cancelling -----------------------------------------------------------------------------

    def cancel(self) -> None:
        self._canceled = True

    @property
    def canceled(self) -> bool:
        return self._canceled

    def check(self) -> None:
        if self._canceled or self._abort:
            raise Canceled()

    def progress(self, fraction: float, text: str = "") -> None:
        self.check()

    def note(self, message: str) -> None:
        self._emit("note", "", text=message)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Announces the stages to come and about how long each takes, for the overall progress and ETA."""
        self._expected = dict(seconds)

    def _emit(self, kind: Any, stage: str, fraction: float = 0.0, text: str = "", **more: Any) -> None:
        if self.on_event is None:
            return
        overall = overall_eta = None
        with self._lock:
            if stage in self._expected:
                if kind in ("progress", "hit", "done"):
                    self._done[stage] = 1.0 if kind in ("hit", "done") else fraction
                total = sum(self._expected.values()) or 1.0
                left = sum(s * (1 - self._done.get(n, 0.0)) for n, s in self._expected.items())
                overall, overall_eta = 1 - left / total, left
        self.on_event(Event(kind, stage, fraction, text, overall=overall, overall_eta=overall_eta, **more))

    def parallel(self, *branches: Callable[[], Any]) -> list[Any]:
        """Runs independent branches side by side and returns their results; the first failure stops the others."""
        with ThreadPoolExecutor(len(branches), thread_name_prefix="branch") as pool:
            futures = [pool.submit(branch) for branch in branches]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                if any(f.done() and f.exception() is not None for f in futures):
                    self._abort = True
                wait(futures)
            except BaseException:  # the user's own interrupt in this thread
                self._abort = True
                raise
            finally:
                wait(futures)
                self._abort = False
        failures = [error for f in futures if (error := f.exception()) is not None]
        if failures:
            raise next((f for f in failures if not isinstance(f, Canceled)), failures[0])
        return [future.result() for future in futures]

    # --- stages -----------------------------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        *,
        version: int,
        inputs: Mapping[str, Path],
        params: Mapping[str, Any],
        compute: Callable[[Stage], None],
    ) -> StageResult:
        """The result of a stage, from the cache or by calling `compute(stage)`, which writes into `stage.folder`.

        `version` is the version of the code behind `compute`: raise it when its output changes.
        Raises `Canceled`, `StorageError`, and whatever `compute` raises (then nothing is kept).
        """
        self.check()
        key = self.key(name, version, inputs, params)
        with storage_errors(f"stage {name}", self.root):
            self._upkeep.pin(key)
            if (found := self._load(key, name)) is not None:
                return self._finish(found, "hit")
            with self._only_one(key, name):
                if (found := self._load(key, name)) is not None:  # another process made it while we waited
                    return self._finish(found, "hit")
                if (found := self._fetched(key, name)) is not None:
                    return self._finish(found, "hit")
                return self._finish(self._compute(key, name, params, compute), "done")

    def key(self, name: str, version: int, inputs: Mapping[str, Path], params: Mapping[str, Any]) -> str:
        hashes = {k: self.hash_of(Path(p)) for k, p in inputs.items()}
        story = {"format": FORMAT, "name": name, "version": version, "inputs": hashes, "params": dict(params)}
        return hashlib.sha256(canonical(story).encode()).hexdigest()

    def hash_of(self, path: Path) -> str:
        """sha256 of a file; for a committed stage's file, the one recorded when it was made."""
        for result in self.results:
            if path.parent == result.folder and path.name in result.files:
                return result.files[path.name]
        stat = path.stat()
        seen = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        if seen not in self._hashes:
            self._hashes[seen] = sha256_file(path)
        return self._hashes[seen]

    def _compute(self, key: str, name: str, params: Mapping[str, Any], compute: Callable[[Stage], None]) -> StageResult:
        folder = self._aside(key)
        self._emit("start", name)
        began = time.monotonic()
        stage = Stage(self, name, folder)
        try:
            one_blas_thread()
            settle()
            compute(stage)
            self.check()
            seconds = time.monotonic() - began
            files = {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file()}
            sizes = {n: (folder / n).stat().st_size for n in files}
            record = {
                "name": name, "key": key, "files": files, "sizes": sizes, "meta": stage.meta,
                "seconds": round(seconds, 3), "params": dict(params),
            }  # fmt: skip
            write_durably(folder / "stage.json", json.dumps(record, indent=1))
            home = self._commit(key, folder)
        except BaseException:
            self._emit("failed", name)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            give_back()
        result = StageResult(name, key, home, files, stage.meta, seconds)
        if self.limit:
            self.prune(self.limit)
        return result

    def _fetched(self, key: str, name: str) -> StageResult | None:
        """The stage as another machine has made it; None when none has, or it cannot be had."""
        if self.shared is None:
            return None
        folder = self._aside(key)
        try:
            if not self.shared.get(key, folder):
                return None
            self._commit(key, folder)
        except VividCoverError as error:
            self._emit("note", name, text=f"another machine's result could not be had, so it is made here: {error}")
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self._load(key, name)

    def _aside(self, key: str) -> Path:
        """An empty folder to make a stage in."""
        folder = self.root / "tmp" / f"{self._id}-{key[:16]}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _commit(self, key: str, folder: Path) -> Path:
        """Puts a whole stage where readers look."""
        home = self._home(key)
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home, ignore_errors=True)  # only a damaged one can be here
        folder.rename(home)
        return home

    def _finish(self, result: StageResult, kind: Literal["hit", "done"]) -> StageResult:
        with self._lock:
            self.results.append(result)
        if self.shared is not None:
            self.shared.put(result.key, result.folder)
        self._emit(kind, result.name, 1.0, elapsed=0.0 if result.hit else result.seconds)
        return result

    def _home(self, key: str) -> Path:
        return self.root / "stages" / key[:2] / key

    def _load(self, key: str, name: str) -> StageResult | None:
        folder = self._home(key)
        try:
            record = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
            whole = all((folder / n).stat().st_size == size for n, size in record["sizes"].items())
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
            return None
        if not whole:
            self._emit("note", name, text="a cached result was damaged; computing it again")
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / "stage.json")  # "used now", for the order in which prune removes
        return StageResult(name, key, folder, record["files"], record["meta"], record["seconds"], hit=True)

    @contextlib.contextmanager
    def _only_one(self, key: str, name: str) -> Iterator[None]:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{key}.lock", thread_local=False)
        waiting = False
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except Timeout:
                if not waiting:
                    self._emit("wait", name, text="another run is computing this; waiting for it")
                waiting = True
                self.check()
        try:
            yield
        finally:
            lock.release()

    # --- the cache as a whole ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets go of the stages that this run has used. A killed process lets go of them too."""
        self._upkeep.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self) -> list[dict[str, Any]]:
        """Every cached stage: name, key, bytes, seconds, used (unix time), folder; least recently used first."""
        return self._upkeep.entries()

    def prune(self, limit: int) -> int:
        """Removes the least recently used stages until at most `limit` bytes are left; returns the bytes freed.

        Never touches a stage that a living run has used. Also sweeps what killed runs left half-written.
        """
        return self._upkeep.prune(limit)
