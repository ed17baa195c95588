"""Where a file of weights comes from, and what is known of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the Python package index, pinned to one file by its hash."""

    package: str
    version: str
    tag: str  # python-abi-platform: the same file is fetched whatever the interpreter and system are
    sha256: str
    size: int = 0  # bytes; 0: not known

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}-{self.tag}.whl"

    @property
    def page(self) -> str:
        return f"https://pypi.org/project/{self.package}/{self.version}/#files"

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Url:
    """A file on the web. `mirrors` are tried in order where `page` cannot be had; the hash is the same for all."""

    page: str
    mirrors: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return self.page.rsplit("/", 1)[1]

    def addresses(self) -> list[str]:
        """What to try, in order. `HF_ENDPOINT` stands in for the Hugging Face hub, as in the hub's own programs."""
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
        return [endpoint + a.removeprefix(HUB) if a.startswith(f"{HUB}/") else a for a in (self.page, *self.mirrors)]

    def __str__(self) -> str:
        return self.page


def hub(repository: str, revision: str, file: str, *mirrors: str) -> Url:
    """A file of a Hugging Face repository at one commit."""
    return Url(f"{HUB}/{repository}/resolve/{revision}/{file}", mirrors)


@dataclass(frozen=True, slots=True)
class Net:
    """One file of weights. `member` is its path inside a wheel; `size` is in bytes, 0 where nobody has published it.

    `commercial`: whether its licence allows commercial use; None: it is not stated, or stated by somebody else than
    its author. `groups` are what `pull --group` takes; `default` nets are those that the classic engine needs.
    """

    name: str
    file: str
    purpose: str
    source: Wheel | Url
    member: str
    size: int
    sha256: str
    licence: str
    licence_note: str
    commercial: bool | None = None
    groups: tuple[str, ...] = ()
    default: bool = False
