"""What a separator is: something that takes a song apart into named stems, in blocks, whatever the song's length.

A net that sees a fixed number of samples becomes one by `NetSeparator`; `chain.py` puts several of them in a row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import AudioError
from vividcover.song.pcm import PcmReader, PcmWriter
from vividcover.song.separators.overlap import (
    EPSILON,
    Batch,
    Chunks,
    Mirrored,
    Scaled,
    Source,
    Stereo,
    levels,
    overlap_add,
)
from vividcover.workspace import Reporter, Silent

PIECE = 1 << 16  # samples written at a time


class Net(Protocol):
    """A separating network with its weights in place: what htdemucs, the roformers and MDX each provide.

    `level` says what the song is brought to before the net sees it, and back after: "none", its "peak" to 1, or its
    middle's mean and deviation to 0 and 1 ("standard", as demucs). `mirror`: samples mirrored at both ends of the song.
    """

    stems: tuple[str, ...]  # what the net answers, in order: "vocals", "drums", …
    rate: int
    chunks: Chunks
    level: str
    mirror: int

    def __call__(self, mixtures: Batch) -> Batch:
        """[B, 2, chunks.size] -> [B, len(stems), 2, chunks.size], full scale ±1."""

    def stop(self) -> None:
        """End a call that is under way, if that can be done; else do nothing."""


class Separator(Protocol):
    """`separate` writes `<stem>.wav` (PCM like the song) for each of `stems` into `folder` and returns the files.

    The stems sum to the song wherever one of them is "what is left". Memory does not grow with the song.
    """

    name: str
    stems: tuple[str, ...]
    rate: int

    def separate(
        self, song: Path, folder: Path, *, reporter: Reporter | None = None, span: tuple[float, float] = (0.0, 1.0)
    ) -> dict[str, Path]: ...


class NetSeparator:
    """A `Separator` made of a `Net`: it writes the net's stems in `keep`, and `rest` = the song minus these.

    `keep` are names of the net's stems, or a mapping of these to names of the files; default: all. `rest` is the name
    of what is left, default: it is not written. `gain` multiplies what the net answers for a stem.
    """

    def __init__(
        self,
        name: str,
        net: Net,
        keep: Sequence[str] | Mapping[str, str] = (),
        rest: str = "",
        gain: Mapping[str, float] | None = None,
    ) -> None:
        self.name, self.net, self.rate, self.rest = name, net, net.rate, rest
        self._keep = dict(keep) if isinstance(keep, Mapping) else {stem: stem for stem in keep or net.stems}
        self._gain = dict(gain or {})
        self.stems = (*self._keep.values(), *((rest,) if rest else ()))

    def separate(
        self, song: Path, folder: Path, *, reporter: Reporter | None = None, span: tuple[float, float] = (0.0, 1.0)
    ) -> dict[str, Path]:
        """Raises `AudioError` for a song of another rate, `Canceled` within a second of being asked to stop."""
        reporter = reporter or Silent()
        files = {stem: folder / f"{stem}.wav" for stem in self.stems}
        folder.mkdir(parents=True, exist_ok=True)
        rows = [(self.net.stems.index(stem), np.float32(self._gain.get(stem, 1.0))) for stem in self._keep]
        with PcmReader(song) as reader, contextlib.ExitStack() as stack:
            if reader.rate != self.rate:
                raise AudioError(
                    f"{self.name} separates songs of {self.rate} Hz; {song.name} has {reader.rate}.",
                    f"Decode the song at {self.rate} Hz first.",
                )
            writers = [stack.enter_context(PcmWriter(file, reader.rate, reader.channels)) for file in files.values()]
            at = 0
            for block in self._blocks(Stereo(reader), reporter, span):
                for low in range(0, block.shape[-1], PIECE):
                    piece = block[..., low : low + PIECE]
                    parts = [fitted(piece[row] * gain, reader.channels) for row, gain in rows]
                    if self.rest:
                        left = reader.read(at, piece.shape[-1])
                        for part in parts:
                            left = left - part
                        parts.append(left)
                    for writer, part in zip(writers, parts, strict=True):
                        writer.write(part)
                    at += piece.shape[-1]
        return files

    def _blocks(self, song: Source, reporter: Reporter, span: tuple[float, float]) -> Iterator[Batch]:
        net = self.net
        offset, scale = 0.0, 1.0
        if net.level != "none":
            found = levels(song, reporter)
            offset, scale = (found.mean, found.deviation + EPSILON) if net.level == "standard" else (0.0, found.peak)
            scale = scale if scale > 0 else 1.0  # a silent song
        heard: Source = Scaled(song, offset, scale)
        if net.mirror:
            heard = Mirrored(heard, net.mirror)
        text = f"separating ({self.name})"
        for block in overlap_add(net, heard, net.chunks, reporter, text=text, span=span, stop=net.stop):
            yield block * np.float32(scale) + np.float32(offset)


def fitted(block: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """[2, n] as the song has it: one channel is the mean of both."""
    return block if channels == 2 else block.mean(axis=0, keepdims=True)
