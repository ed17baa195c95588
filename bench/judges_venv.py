"""Makes the judges' own environment, `.venv-judges`, when it is missing, and prints its python.

About 2 GB and a few minutes, once. Nothing of it is ever imported by vividcover. `VIVIDCOVER_JUDGES=/path/to/python`
uses an environment that is already there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = Path(__file__).with_name("judges-requirements.txt")
FOLDER = ROOT / ".venv-judges"
VERSIONS = ("3.11", "3.12")  # for which mediapipe 0.10.21 has wheels


def _interpreter() -> str:
    if f"{sys.version_info.major}.{sys.version_info.minor}" in VERSIONS:
        return sys.executable
    for version in VERSIONS:
        if found := shutil.which(f"python{version}"):
            return found
    raise SystemExit(f"The judges need Python {' or '.join(VERSIONS)} (mediapipe 0.10.21); none was found on PATH.")


def judges_python() -> Path:
    """The interpreter of the judges' environment, made and filled if it is missing or its requirements changed."""
    if given := os.environ.get("VIVIDCOVER_JUDGES"):
        return Path(given)
    python, stamp = FOLDER / "bin" / "python", FOLDER / "requirements.sha256"
    wanted = hashlib.sha256(WANTED.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making {FOLDER} for the judges (about 2 GB, once)…", file=sys.stderr)
    subprocess.run([_interpreter(), "-m", "venv", "--clear", str(FOLDER)], check=True)
    # webrtcvad comes as source and builds with whatever setuptools is there
    _pip(python, "setuptools<81", "wheel")
    if not any(_pip(python, *source, must=False) for source in _torch()):
        raise SystemExit("PyTorch's CPU build could not be installed; see the messages above.")
    _pip(python, "-r", str(WANTED))
    stamp.write_text(wanted)
    return python


def _torch() -> list[list[str]]:
    """Where PyTorch's CPU build may come from: the configured index, PyTorch's own, and at last whatever pip finds."""
    version = re.search(r"^torch==([\d.]+)", WANTED.read_text(), re.M)
    assert version
    cpu = f"torch=={version[1]}+cpu"
    own = ["--index-url", "https://download.pytorch.org/whl/cpu", "--retries", "1", "--timeout", "20"]
    return [[cpu], [cpu, *own], [f"torch=={version[1]}"]]


def _pip(python: Path, *what: str, must: bool = True) -> bool:
    done = subprocess.run([str(python), "-m", "pip", "install", "-q", *what], check=must, stdout=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    print(judges_python())
