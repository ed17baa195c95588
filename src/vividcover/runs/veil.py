"""What a run says goes to its owner, who may be a stranger: folders of this machine are none of their business.

plain = Veil(settings)
plain("There is no file /srv/home/weights/rife/flownet.pkl.")      # "There is no file flownet.pkl."
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import vividcover
from vividcover.settings import Settings

END = r"[^\s'\"`<>|,;:()\[\]]*"  # the rest of a path, as far as it can be told from a sentence


class Veil:
    """Takes a text; gives it with the last part of each path alone, of those in folders that this program uses."""

    def __init__(self, settings: Settings) -> None:
        own = (path.parent for path in settings.weight_files.values())
        used = [
            settings.home, settings.cache, settings.weights, *own, Path(tempfile.gettempdir()), Path(sys.prefix),
            Path(vividcover.__file__).parent,
        ]  # fmt: skip
        written = {str(one) for path in used for one in (path, path.absolute(), path.resolve())}
        names = sorted((name for name in written if len(Path(name).parts) > 1), key=len, reverse=True)
        self._paths = re.compile(rf"(?<![\w./\\])(?:{'|'.join(map(re.escape, names))})(?![\w-]){END}")

    def __call__(self, text: str) -> str:
        return self._paths.sub(_last, text)


def _last(found: re.Match[str]) -> str:
    path = found[0].rstrip(".")
    return (re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "…") + found[0][len(path) :]
