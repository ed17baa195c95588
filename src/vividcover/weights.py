"""The nets that the program uses: where each comes from, what it must be, and under which licence.

    pull()                         # once, during set-up: `vividcover weights pull`
    path("face_landmark")          # in a run: never touches the network

The project ships no weights. Its small face nets lie inside a pinned wheel of the package index, which pip fetches by
name, version and hash; files are taken from the wheel by path, checked, and renamed into place, so that a reader
sees a whole file or none. Source of the nets: MediaPipe (Apache-2.0), https://github.com/google-ai-edge/mediapipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from vividcover.errors import NotFoundError, StorageError, WeightsError
from vividcover.files import aside
from vividcover.settings import settings
from vividcover.workspace import Reporter, Silent

POLL = 0.1  # seconds between two looks at the cancel flag
TIMEOUT = 900.0  # seconds that fetching a wheel may take

State = Literal["ok", "missing", "changed"]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the Python package index, pinned to one file by its hash."""

    package: str
    version: str
    tag: str  # python-abi-platform: the same file is fetched whatever the interpreter and system are
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}-{self.tag}.whl"

    @property
    def page(self) -> str:
        return f"https://pypi.org/project/{self.package}/{self.version}/#files"


@dataclass(frozen=True, slots=True)
class Net:
    """One file of weights. `member` is its path inside `source`; `size` is in bytes."""

    name: str
    file: str
    purpose: str
    source: Wheel
    member: str
    size: int
    sha256: str
    licence: str
    licence_note: str


MEDIAPIPE = Wheel(
    "mediapipe",
    "0.10.21",
    "cp311-cp311-manylinux_2_28_x86_64",
    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
)
_NOTE = "Published by Google inside the mediapipe package under Apache-2.0; commercial use allowed; keep the notice."


def _mediapipe(name: str, purpose: str, size: int, sha256: str, module: str = "") -> Net:
    member = f"mediapipe/modules/{module or name}/{name}.tflite"
    return Net(name, f"{name}.tflite", purpose, MEDIAPIPE, member, size, sha256, "Apache-2.0", _NOTE)


REGISTRY: Mapping[str, Net] = MappingProxyType(
    {
        net.name: net
        for net in (
            _mediapipe(
                "face_detection_short_range",
                "finds faces (BlazeFace, 128 px)",
                229_714,
                "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
                "face_detection",
            ),
            _mediapipe(
                "face_landmark",
                "468 points of a face (FaceMesh, 192 px)",
                1_242_398,
                "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            ),
            _mediapipe(
                "selfie_segmentation",
                "tells a person from the background (256 px)",
                249_505,
                "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            ),
        )
    }
)


# reading ---------------------------------------------------------------------------------------------------------


def net(name: str) -> Net:
    """A net by name. Raises `NotFoundError`."""
    if name not in REGISTRY:
        raise NotFoundError(f"There are no weights called {name!r}.", f"Known: {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def path(name: str, folder: Path | None = None) -> Path:
    """The file of a net, checked against its hash. Raises `WeightsError`; never downloads."""
    wanted, folder = net(name), folder or settings().weights
    file = folder / wanted.file
    state = _state(wanted, folder)
    if state == "missing":
        raise WeightsError(f"The weights {name!r} are not in {folder}.", "Run `vividcover weights pull` once.")
    if state == "changed":
        raise WeightsError(
            f"{file} is not the file it should be (sha256 differs from {wanted.sha256[:12]}…).",
            "Run `vividcover weights pull` to replace it.",
        )
    return file


def verify(folder: Path | None = None) -> dict[str, State]:
    """What each net's file is: "ok", "missing" or "changed" (its hash differs)."""
    folder = folder or settings().weights
    return {name: _state(wanted, folder) for name, wanted in REGISTRY.items()}


def status(folder: Path | None = None) -> list[dict[str, str | int]]:
    """One row a net, for people and for JSON: name, purpose, state, path, size, source, sha256, licence, its note."""
    folder = folder or settings().weights
    return [
        {
            "name": name,
            "purpose": wanted.purpose,
            "state": _state(wanted, folder),
            "path": str(folder / wanted.file),
            "size": wanted.size,
            "source": f"{wanted.source.package}=={wanted.source.version}:{wanted.member}",
            "sha256": wanted.sha256,
            "licence": wanted.licence,
            "licence_note": wanted.licence_note,
        }
        for name, wanted in REGISTRY.items()
    ]


def _state(wanted: Net, folder: Path) -> State:
    try:
        data = (folder / wanted.file).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        raise StorageError(f"{folder / wanted.file} cannot be read: {error}.", "Check its permissions.") from error
    return "ok" if hashlib.sha256(data).hexdigest() == wanted.sha256 else "changed"


# fetching --------------------------------------------------------------------------------------------------------


def pull(
    names: Iterable[str] | None = None,
    folder: Path | None = None,
    *,
    wheel: Path | None = None,
    reporter: Reporter | None = None,
) -> list[Path]:
    """Fetches the nets that are not there yet (all of them by default) and returns their files.

    A second call does nothing. Without a network: hand over the `wheel`, or lay it (or the nets' files) into `folder`.
    Raises `WeightsError` when the source cannot be had or is not what it should be, `StorageError`, `Canceled`.
    """
    reporter, folder = reporter or Silent(), folder or settings().weights
    wanted = [net(name) for name in (REGISTRY if names is None else names)]
    missing = [item for item in wanted if _state(item, folder) != "ok"]
    with _storage(folder):
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
        for source in dict.fromkeys(item.source for item in missing):
            members = [item for item in missing if item.source == source]
            by_hand = wheel or folder / source.filename
            if wheel is not None or by_hand.exists():
                _unpack(by_hand, members, folder)
                continue
            with tempfile.TemporaryDirectory(prefix="vividcover-") as temporary:
                reporter.progress(0.02, f"fetching {source.package} {source.version} (35 MB, once)")
                _unpack(_download(source, Path(temporary), folder, reporter), members, folder)
    reporter.progress(1.0, "weights are in place")
    return [folder / item.file for item in wanted]


def _unpack(wheel: Path, members: list[Net], folder: Path) -> None:
    """Takes the members from the wheel, checks them, writes each aside and renames it into `folder`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = {item: archive.read(item.member) for item in members}
    except FileNotFoundError as error:
        raise WeightsError(f"There is no wheel at {wheel}.", _by_hand(members[0].source, folder)) from error
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise WeightsError(
            f"{wheel} is not the wheel it should be: {error}.", _by_hand(members[0].source, folder)
        ) from error
    for item, data in found.items():
        if (digest := hashlib.sha256(data).hexdigest()) != item.sha256:
            raise WeightsError(
                f"{item.member} inside {wheel.name} has sha256 {digest[:12]}…, not {item.sha256[:12]}…: not used.",
                _by_hand(item.source, folder),
            )
        with aside(folder / item.file) as part:
            part.write_bytes(data)


def _download(source: Wheel, temporary: Path, folder: Path, reporter: Reporter) -> Path:
    """The wheel, fetched by pip (which knows the user's index, proxy and certificates) and checked against its hash."""
    python, abi, platform = source.tag.split("-")
    pin = temporary / "pin.txt"
    pin.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [
        *_pip(temporary, source, folder), "download", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--python-version", python.removeprefix("cp"), "--implementation", "cp", "--abi", abi, "--platform", platform,
        "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-d", str(temporary), "-r", str(pin),
    ]  # fmt: skip
    said = _run(command, reporter)
    wheel = temporary / source.filename
    if not wheel.exists():
        lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.strip().splitlines() or [""]
        raise WeightsError(
            f"pip could not fetch {source.package} {source.version}: {lines[-1].removeprefix('ERROR: ')[:300]}",
            _by_hand(source, folder),
        )
    return wheel


def _pip(temporary: Path, source: Wheel, folder: Path) -> list[str]:
    """How to call pip: this environment's, or (uv makes environments without one) one in a throw-away environment."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    try:
        venv.create(temporary / "pip", with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.SubprocessError, SystemExit) as error:
        message = f"This environment has no pip, and none could be made: {error}."
        raise WeightsError(message, _by_hand(source, folder)) from error
    executable = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return [str(temporary / "pip" / executable), "-m", "pip"]


def _run(command: list[str], reporter: Reporter) -> str:
    """Runs pip and returns what it said; ends it at once when the user cancels or when it takes too long."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                reporter.check()
                if time.monotonic() - began > TIMEOUT:
                    return f"ERROR: gave up after {TIMEOUT:.0f} s"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        return said.read().decode("utf-8", "replace")


def _by_hand(source: Wheel, folder: Path) -> str:
    return (
        f"Check the network and run `vividcover weights pull` again; or download {source.filename} from {source.page} "
        f"on any machine and lay it into {folder}, then run it again."
    )


@contextlib.contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The weights cannot be written to {folder}: {error.strerror or error}.",
            "Free some space, or set VIVIDCOVER_WEIGHTS_DIR to a folder that can be written.",
        ) from error
