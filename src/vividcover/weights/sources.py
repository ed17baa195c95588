"""Where a file of weights comes from, and what is known of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

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
        here = endpoint()
        return [here + a.removeprefix(HUB) if a.startswith(f"{HUB}/") else a for a in (self.page, *self.mirrors)]

    def __str__(self) -> str:
        return self.page


def endpoint() -> str:
    """Where the hub is reached: its own address, or the one in `HF_ENDPOINT`."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


def hub(repository: str, revision: str, file: str, *mirrors: str) -> Url:
    """A file of a Hugging Face repository at one commit."""
    return Url(f"{HUB}/{repository}/resolve/{revision}/{file}", mirrors)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a `Tree`. `sha256` is empty where nobody has published it: the hub's own word is taken instead.

    `optional`: some repositories of the kind have it and some do not.
    """

    path: str
    size: int = 0  # bytes; 0: not known
    sha256: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """Several files of a Hugging Face repository at one commit; `mirrors` are (repository, commit) with the same."""

    repository: str
    revision: str
    parts: tuple[Part, ...]
    mirrors: tuple[tuple[str, str], ...] = ()

    @property
    def page(self) -> str:
        return f"{HUB}/{self.repository}/tree/{self.revision}"

    @property
    def filename(self) -> str:
        return self.repository.rsplit("/", 1)[1]

    def url(self, part: Part) -> Url:
        others = (hub(repository, revision, part.path).page for repository, revision in self.mirrors)
        return hub(self.repository, self.revision, part.path, *others)

    def __str__(self) -> str:
        return self.page


@dataclass(frozen=True, slots=True)
class Net:
    """A file of weights, or (from a `Tree`) a folder of several.

    `member` is the file's path inside a wheel; `size` is in bytes, of all files, 0 where nobody has published it. A
    folder's `sha256` is that of its list of hashes, see `tree`.
    `commercial`: whether its licence allows commercial use; None: it is not stated, or stated by somebody else than
    its author. `groups` are what `pull --group` takes; `default` nets are those that the classic engine needs.
    `gated`: the page on the hub where its licence is accepted, by people with an account there; pulling it takes
    their token. `either`: a user's own may be a folder in diffusers' layout instead of the file.
    """

    name: str
    file: str
    purpose: str
    source: Wheel | Url | Tree
    member: str
    size: int
    sha256: str
    licence: str
    licence_note: str
    commercial: bool | None = None
    groups: tuple[str, ...] = ()
    default: bool = False
    gated: str = ""
    either: bool = False
    optional: bool = False  # of a piece

    def pieces(self) -> tuple[Net, ...]:
        """The net file by file: itself, or one net for each file of its folder."""
        if not isinstance(self.source, Tree):
            return (self,)
        source = self.source
        return tuple(
            replace(
                self, file=f"{self.file}/{part.path}", source=source.url(part), size=part.size, sha256=part.sha256,
                optional=part.optional,
            )
            for part in source.parts
        )  # fmt: skip


def tree(
    name: str, purpose: str, source: Tree, licence: str, licence_note: str, commercial: bool | None, group: str,
    gated: str = "",
) -> Net:  # fmt: skip
    """A net that is a folder, called after it."""
    known = all(part.sha256 for part in source.parts)
    listed = "".join(f"{part.sha256}  {part.path}\n" for part in source.parts)
    return Net(
        name, name, purpose, source, "", sum(part.size for part in source.parts),
        hashlib.sha256(listed.encode()).hexdigest() if known else "",
        licence, licence_note, commercial, (group,), gated=gated,
    )  # fmt: skip
