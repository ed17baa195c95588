"""Takes a song apart into vocals, instrumental and, where it can, backing vocals, by signal processing alone.

Two passes over the song, in blocks and in child processes, so that memory does not grow with its length: a survey of
the whole song, from which the recipe is chosen (`separation/choose.py`), then soft masks block by block
(`separation/masks.py`). The parts always sum to the song.

Where the melody is an instrument's (`separation/presence.py`), the vocals are silent. Backing vocals are told from the
lead where several sing, one in the middle and others beside it; else they stay with the vocals.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ParameterError
from vividcover.processes import Children
from vividcover.song.pcm import PcmReader, PcmWriter, Signal
from vividcover.song.separation import choose, stft
from vividcover.song.separation.choose import Plan
from vividcover.song.separation.masks import Block, separate_block
from vividcover.song.separation.presence import Evidence, voice
from vividcover.song.separation.survey import Stretch, Survey, survey_stretch
from vividcover.workspace import Reporter, Silent

HERE = "vividcover.song.separate"
CHILDREN = (
    1  # at work at once: one holds 200 MB at its peak, and where two peaks meet is chance, more so in a long song
)
CORE = 640  # frames of a block, 14.9 s
FADE = 8  # frames on each side of a joint over which two blocks are cross-faded
PIECE = 1 << 16  # samples written at a time
PARTS = ("vocals", "instrumental", "backing")
CONTEXT = 36  # further frames that a block sees on each side: for smoothing and for whole analysis windows


@dataclass(frozen=True)
class Separation:
    """Where the parts lie. `report` is JSON: the recipe, why it was chosen, and what was measured for that."""

    recipe: str
    why: str
    vocals: Path
    instrumental: Path
    backing: Path | None
    report: dict[str, Any]


def separate(
    song: Path, folder: Path, *, recipe: str = "auto", threads: int = 2, reporter: Reporter | None = None
) -> Separation:
    """Writes `vocals.wav`, `instrumental.wav` and maybe `backing.wav` (PCM like the song) into `folder`.

    `recipe` is "auto" or one of `choose.RECIPES`. Raises `ParameterError` for another name, `Canceled`.
    """
    reporter = reporter or Silent()
    if recipe != "auto" and recipe not in choose.RECIPES:
        raise ParameterError(
            f"Unknown separation recipe {recipe!r}.", f"Use auto, or one of: {', '.join(choose.RECIPES)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with PcmReader(song) as reader, Children(min(threads, CHILDREN), reporter) as children:
        plan = _plan(reader, children, recipe, reporter)
        power, found = _second(reader, folder, plan, children, reporter)
        plan = choose.judge(plan, power, voice(found))
        if plan.lean != 0 or plan.scale != 1 or plan.backing:
            _finish(reader, folder, plan, reporter)
    vocals, instrumental, backing = (folder / f"{name}.wav" for name in PARTS)
    if not plan.backing:
        backing.unlink(missing_ok=True)
    reporter.note(f"Separation: {plan.recipe} ({plan.why}).")
    reporter.progress(1.0, "separated")
    return Separation(plan.recipe, plan.why, vocals, instrumental, backing if plan.backing else None, plan.report)


def _stereo(block: Signal) -> Signal:
    return block if block.shape[0] == 2 else np.repeat(block[:1], 2, axis=0)


def _plan(reader: PcmReader, children: Children, recipe: str, reporter: Reporter) -> Plan:
    total = reader.frames // stft.HOP + 1
    starts = range(0, total, CORE)

    def stretches() -> Iterator[Stretch]:
        for t in starts:
            lead, count = min(t, CONTEXT), min(CORE, total - t)
            after = min(CONTEXT, total - t - count)
            yield Stretch(_stereo(reader.read(*stft.span(t - lead, lead + count + after))), lead, after)

    parts: list[Survey] = []
    for part in children.map(f"{HERE}:surveyed", stretches()):
        parts.append(part)
        reporter.progress(0.45 * len(parts) / len(starts), "listening to the song")
    plan: Plan
    (plan,) = children.map(f"{HERE}:chosen", [(parts, recipe)])
    return plan


def surveyed(stretch: Stretch) -> Survey:
    """In a child."""
    return survey_stretch(stretch, _unhindered)


def chosen(item: tuple[list[Survey], str]) -> Plan:
    """In a child, because the survey of a long song is long."""
    parts, recipe = item
    return choose.choose(Survey.join(parts), recipe, _unhindered)


def separated(block: Block) -> tuple[Signal, Evidence]:
    """In a child."""
    return separate_block(block, _unhindered)


def _unhindered() -> None:
    """The check for being canceled in a child: there it is killed."""


def _blocks(reader: PcmReader, plan: Plan) -> Iterator[Block]:
    total = reader.frames // stft.HOP + 1
    for t in range(0, total, CORE):
        first, count = t - FADE - CONTEXT, min(CORE, total - t) + 2 * (FADE + CONTEXT)
        signal = _stereo(reader.read(*stft.span(first, count)))
        yield plan.block(signal, first, count)


def _second(
    reader: PcmReader, folder: Path, plan: Plan, children: Children, reporter: Reporter
) -> tuple[NDArray[np.float64], list[Evidence]]:
    """Writes vocals (backing vocals included), instrumental and backing vocals; returns what `choose.judge` wants."""
    power, found = np.zeros(5), list[Evidence]()
    vocals, instrumental, backing = (folder / f"{name}.wav" for name in PARTS)
    with (
        PcmWriter(vocals, reader.rate, reader.channels) as sung,
        PcmWriter(instrumental, reader.rate, reader.channels) as played,
        PcmWriter(backing, reader.rate, reader.channels) as beside,
    ):
        for start, parts in _vocals(reader, plan, found, children, reporter):
            for at in range(0, parts.shape[1], PIECE):
                piece = parts[:, at : at + PIECE]
                mixture = reader.read(start + at, piece.shape[1])
                part, backed = piece[: reader.channels], piece[reader.channels :]
                known = [mixture, part, mixture - part]
                sung.write(part)
                played.write(known[2])
                if len(backed):
                    beside.write(backed)
                    known += [(part[0] - part[1]) / np.float32(2**0.5), part - backed]
                power[: len(known)] += [np.square(x, dtype=np.float64).sum() for x in known]
    return power, found


def _vocals(
    reader: PcmReader, plan: Plan, found: list[Evidence], children: Children, reporter: Reporter
) -> Iterator[tuple[int, Signal]]:
    """(start, vocals) in consecutive pieces that cover the song, cross-faded; evidence of a voice goes to `found`.

    Where several sing in a stereo song, the backing vocals' two channels are below the vocals'.
    """
    if plan.passes is not None:
        for start in range(0, reader.frames, CORE * stft.HOP):
            reporter.progress(0.45 + 0.55 * start / reader.frames, "copying")
            yield start, reader.read(start, min(CORE * stft.HOP, reader.frames - start)) * np.float32(plan.passes)
        return
    core, fade, skip = CORE * stft.HOP, FADE * stft.HOP, CONTEXT * stft.HOP + stft.SIZE // 2
    ramp = ((np.arange(2 * fade) + 0.5) / (2 * fade)).astype(np.float32)
    tail: Signal | None = None
    count = max(1, -(-(reader.frames // stft.HOP + 1) // CORE))
    work = children.map(f"{HERE}:separated", _blocks(reader, plan))
    for number, (whole, evidence) in enumerate(work):
        found.append(evidence)
        piece = whole[: reader.channels if reader.channels == 1 else None, skip : skip + core + 2 * fade]
        if tail is None:
            start, ready = 0, piece[:, fade:].copy()
        else:
            start, ready = number * core - fade, piece
            ready[:, : 2 * fade] = tail * (1 - ramp) + ready[:, : 2 * fade] * ramp
        last = number == count - 1
        tail = None if last else ready[:, -2 * fade :].copy()
        end = reader.frames if last else start + ready.shape[1] - 2 * fade
        yield start, ready[:, : end - start]
        reporter.progress(0.45 + 0.55 * (number + 1) / count, "separating")


def _finish(reader: PcmReader, folder: Path, plan: Plan, reporter: Reporter) -> None:
    """The parts as planned: vocals times `plan.scale`, then `plan.lean` of what is left of the song added.

    With `plan.backing` the backing vocals are taken out of the vocals. What is added goes with them, so that the lead
    stays clean, but where nothing else is left of the song: then it is the lead's own room and consonants.
    """
    asides = [folder / f".{name}.wav.part" for name in PARTS]
    scale, lean = np.float32(plan.scale), np.float32(plan.lean)
    with contextlib.ExitStack() as stack:
        sung, played, beside = (stack.enter_context(PcmWriter(p, reader.rate, reader.channels)) for p in asides)
        before = stack.enter_context(PcmReader(folder / "vocals.wav"))
        backed = stack.enter_context(PcmReader(folder / "backing.wav")) if plan.backing else None
        for start in range(0, reader.frames, CORE * stft.HOP):
            reporter.check()
            count = min(CORE * stft.HOP, reader.frames - start)
            mixture, part = reader.read(start, count), before.read(start, count) * scale
            added = lean * (mixture - part)
            whole = mixture if plan.lean >= 1 else part + added
            played.write(mixture - whole)
            if backed:
                backing = backed.read(start, count) * scale
                backing = backing if plan.lean >= 1 else backing + added
                beside.write(backing)
                whole = whole - backing
            sung.write(whole)
    for aside, name in zip(asides, PARTS, strict=True):
        aside.replace(folder / f"{name}.wav")
