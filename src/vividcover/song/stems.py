"""Stems that the user brought: brought to the song's length, and the missing one made of what the others leave.

    completed(song, {"vocals_stem": path}, folder)     # folder/vocals.wav, folder/instrumental.wav

A song minus its vocals is its instrumental, sample by sample, when both come from one session; when they do not
(another master, an mp3), the difference sounds like a bad separation, so the report says how much of the song it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vividcover.errors import AudioError
from vividcover.song.pcm import PcmReader, PcmWriter, Signal
from vividcover.workspace import Reporter, Silent

PARTS = {"vocals_stem": "vocals", "instrumental_stem": "instrumental", "backup_vocals_stem": "backing"}
SLACK = 1.0  # s by which a stem may be shorter or longer than the song: encoders' padding, a cut tail
BLOCK = 1 << 16  # samples at a time
FLOOR = 1e-12  # of a power, before its logarithm


def completed(
    song: Path, given: Mapping[str, Path], folder: Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Writes `vocals.wav`, `instrumental.wav` and, where it was given, `backing.wav` into `folder`, as long as `song`.

    `given`: any of `PARTS` → working file of the song's rate. Returns which were given, which derived, and `left_db`:
    the level of what was derived against the song's. Raises `AudioError` for a stem of another rate or length, and
    `Canceled`.
    """
    reporter = reporter or Silent()
    folder.mkdir(parents=True, exist_ok=True)
    parts = {PARTS[name]: path for name, path in given.items()}
    wanted = ["vocals", "instrumental", *(["backing"] if "backing" in parts else [])]
    derived = [name for name in wanted if name not in parts]
    power, whole = dict.fromkeys(derived, 0.0), 0.0
    with contextlib.ExitStack() as stack:
        mixture = stack.enter_context(PcmReader(song))
        files = {name: stack.enter_context(PcmReader(path)) for name, path in parts.items()}
        for name, file in files.items():
            _fits(name, file, mixture)
        if len(derived) > 1:  # only backing vocals were given: there is no telling lead from band
            raise AudioError(
                "Backing vocals alone do not say where the lead is.", "Give vocals_stem or instrumental_stem, too."
            )
        writers = {
            n: stack.enter_context(PcmWriter(folder / f"{n}.wav", mixture.rate, mixture.channels)) for n in wanted
        }
        for start in range(0, mixture.frames, BLOCK):
            reporter.progress(start / mixture.frames, "fitting the stems")
            heard = mixture.read(start, min(BLOCK, mixture.frames - start))
            blocks = {name: _alike(file.read(start, heard.shape[1]), mixture.channels) for name, file in files.items()}
            whole += float(np.square(heard).sum())
            for name in derived:
                blocks[name] = heard - np.sum(list(blocks.values()), axis=0, dtype=np.float32)
                power[name] += float(np.square(blocks[name]).sum())
            for name, writer in writers.items():
                writer.write(blocks[name])
    left = {n: round(10 * float(np.log10(max(p, FLOOR) / max(whole, FLOOR))), 1) for n, p in power.items()}
    return {"given": sorted(parts), "derived": derived, "left_db": left}


def _fits(name: str, stem: PcmReader, song: PcmReader) -> None:
    if stem.rate != song.rate:
        raise AudioError(f"The {name} are at {stem.rate} Hz, the song at {song.rate} Hz.", "Decode both to one rate.")
    if abs(stem.seconds - song.seconds) > SLACK:
        raise AudioError(
            f"The {name} stem is {stem.seconds:.2f} s long, but the song {song.seconds:.2f} s.",
            "Export the stems over the song's whole length, beginning at the same moment.",
        )


def _alike(block: Signal, channels: int) -> Signal:
    """[C, n] as the song has it."""
    if len(block) == channels:
        return block
    return np.repeat(block, channels, axis=0) if len(block) == 1 else block.mean(axis=0, keepdims=True)
