"""Vocals, backing vocals and instrumental → one song, as loud as it should be.

    vocals       ─► [key] ─► high-pass ─► compressor ─► reverb ─► -4 dB + change ─┐
    backing      ─► [key] ─────────────────────────────────────► -6 dB + change ──┼─► sum ─► loudness ─► limiter ─► out
    instrumental ─► [key] ─────────────────────────────────────► -7 dB + change ──┘

Names, effects and levels are those of the seed (AICoverGen, zsxkib/realistic-voice-cloning); the loudness (EBU R128)
and the true-peak limiter are ours: the seed's mixes clip. The isolated vocals are the same call with the vocals alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vividcover.errors import AudioError, NotFoundError, ParameterError
from vividcover.files import aside
from vividcover.progress import Part
from vividcover.song.effects import Chain, Gain, main_vocals_chain
from vividcover.song.loudness import Limiter, Loudness, Meter
from vividcover.song.pcm import PcmReader, PcmWriter, Signal
from vividcover.song.pitchshift import shift_pitch
from vividcover.workspace import Reporter, Silent

BLOCK = 1 << 16  # samples mixed at a time
MAIN_LEVEL, BACKUP_LEVEL, INSTRUMENTAL_LEVEL = -4.0, -6.0, -7.0  # dB, AICoverGen's own, under the user's changes
SLACK = 0.05  # s by which a part may differ from the vocals in length (decoders' padding)
FADE = 0.02  # s at the end of the song in which a reverb's tail is faded out
TOO_QUIET = -60.0  # LUFS: below this there is nothing to make louder
MOST_GAIN = 24.0  # dB
TOLERANCE = 0.3  # LU that the limiter may take from the loudness before the gain is corrected
CORRECTIONS = 2  # times at most
QUIETEST, LOUDEST = -200.0, 60.0  # dB, of a volume change (-60 and less is as good as nothing)
KEY_LIMIT = 12.0  # semitones
KEY_SHARE, SUM_SHARE = 0.6, 0.6  # of the work: changing the key; then, of the rest, mixing


@dataclass(frozen=True, slots=True)
class MixSettings:
    """Volume changes in dB, key change in semitones, reverb 0..1, `loudness` in LUFS (None: as it comes), `true_peak`
    in dBTP. `vocals_in_key`: the conversion has already moved the main vocals by `pitch_change_all`."""

    main_vocals_volume_change: float = 0.0
    backup_vocals_volume_change: float = 0.0
    instrumental_volume_change: float = 0.0
    pitch_change_all: float = 0.0
    reverb_size: float = 0.15
    reverb_wetness: float = 0.2
    reverb_dryness: float = 0.8
    reverb_damping: float = 0.7
    loudness: float | None = -14.0
    true_peak: float = -1.0
    vocals_in_key: bool = False

    def __post_init__(self) -> None:
        changes = ("main_vocals_volume_change", "backup_vocals_volume_change", "instrumental_volume_change")
        for name in changes:
            _in_range(name, getattr(self, name), QUIETEST, LOUDEST, "dB")
        for name in ("reverb_size", "reverb_wetness", "reverb_dryness", "reverb_damping"):
            _in_range(name, getattr(self, name), 0.0, 1.0, "")
        _in_range("pitch_change_all", self.pitch_change_all, -KEY_LIMIT, KEY_LIMIT, "semitones")
        _in_range("true_peak", self.true_peak, -20.0, 0.0, "dBTP")
        if self.loudness is not None:
            _in_range("loudness", self.loudness, -40.0, -5.0, "LUFS")


def mix(
    vocals: Path, backing: Path | None, instrumental: Path | None, out: Path, settings: MixSettings, *,
    reporter: Reporter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Mixes working files of the same rate and length into `out`, which is exactly as long as `vocals`.

    Returns what was done: loudness before and after (LUFS; None for silence), gain (dB), true peak (dBTP), the
    limiter's largest reduction (dB). Raises `AudioError` for parts that do not fit together, `NotFoundError` for a part
    that is not there.
    """
    reporter = reporter or Silent()
    paths = {"vocals": vocals, "backing": backing, "instrumental": instrumental}
    parts = {name: Path(path) for name, path in paths.items() if path is not None}
    _check_parts(parts)
    with aside(out) as part, contextlib.ExitStack() as scratch:
        begun = 0.0
        if settings.pitch_change_all:
            begun = KEY_SHARE
            parts = _in_key(parts, part, settings, scratch, reporter)
        summed = _scratch(part, "sum", scratch)
        middle = begun + (1 - begun) * SUM_SHARE
        before = _sum(parts, summed, settings, Part(reporter, begun, middle))
        report = _master(summed, part, before, settings, Part(reporter, middle, 1.0))
    reporter.progress(1.0, "mixed")
    return {"parts": sorted(parts), "pitch_change_all": settings.pitch_change_all} | report


def _in_range(name: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:
        raise ParameterError(f"{name} is {value:g} {unit}".strip() + ".", f"Use a value from {low:g} to {high:g}.")


def _check_parts(parts: dict[str, Path]) -> None:
    sizes: dict[str, tuple[int, float]] = {}
    for name, path in parts.items():
        if not path.is_file():
            raise NotFoundError(f"The {name} to mix are not there: {path}.", "Separate the song first.")
        with PcmReader(path) as file:
            sizes[name] = (file.rate, file.seconds)
    rate, seconds = sizes["vocals"]
    if seconds == 0:
        raise AudioError("The vocals to mix are empty (0 s).", "Separate or convert the song first.")
    for name, (other_rate, other_seconds) in sizes.items():
        if other_rate != rate:
            raise AudioError(f"The {name} are at {other_rate} Hz, the vocals at {rate} Hz.", "Decode both to one rate.")
        if abs(other_seconds - seconds) > SLACK:
            raise AudioError(
                f"The {name} part is {other_seconds:.2f} s long, but the vocals are {seconds:.2f} s.",
                "Both must come from the same song; separate it anew.",
            )


def _scratch(beside: Path, name: str, scratch: contextlib.ExitStack) -> Path:
    path = beside.with_name(f"{beside.name}.{name}")
    scratch.callback(path.unlink, missing_ok=True)
    return path


def _in_key(
    parts: dict[str, Path], beside: Path, settings: MixSettings, scratch: contextlib.ExitStack, reporter: Reporter
) -> dict[str, Path]:
    """The parts, moved by `pitch_change_all`; voices keep their formants, so that they do not sound like mice."""
    moved = {}
    share = KEY_SHARE / len(parts)
    for number, (name, path) in enumerate(parts.items()):
        span = Part(reporter, number * share, (number + 1) * share)
        if name == "vocals" and settings.vocals_in_key:
            moved[name] = path
            continue
        moved[name] = _scratch(beside, f"{name}.key", scratch)
        voice = name != "instrumental"
        shift_pitch(path, moved[name], settings.pitch_change_all, preserve_formants=voice, reporter=span)
    return moved


def _sum(parts: dict[str, Path], out: Path, settings: MixSettings, reporter: Reporter) -> Loudness:
    """Effects, levels and the sum of all parts → `out`, always stereo; its loudness."""
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(PcmReader(path)) for name, path in parts.items()}
        rate, frames = files["vocals"].rate, files["vocals"].frames
        chains = {name: _chain(name, rate, settings) for name in files}
        meter = Meter(rate, 2)
        fade = _fade_out(rate, frames)
        with PcmWriter(out, rate, 2) as writer:
            for start in range(0, frames, BLOCK):
                reporter.progress(start / frames, "mixing")
                count = min(BLOCK, frames - start)
                total = np.zeros((2, count), np.float32)
                for name, file in files.items():
                    total += chains[name].process(_stereo(file.read(start, count))) * (
                        _tail_of(fade, start, count, frames) if name == "vocals" else 1.0
                    )
                meter.add(total)
                writer.write(total)
    return meter.result()


def _chain(name: str, rate: int, settings: MixSettings) -> Chain:
    if name == "backing":
        return Chain([Gain(BACKUP_LEVEL + settings.backup_vocals_volume_change)])
    if name == "instrumental":
        return Chain([Gain(INSTRUMENTAL_LEVEL + settings.instrumental_volume_change)])
    effects = main_vocals_chain(
        rate, 2, room_size=settings.reverb_size, wetness=settings.reverb_wetness,
        dryness=settings.reverb_dryness, damping=settings.reverb_damping,
    )  # fmt: skip
    return Chain([effects, Gain(MAIN_LEVEL + settings.main_vocals_volume_change)])


def _stereo(block: Signal) -> Signal:
    return np.repeat(block, 2, axis=0) if len(block) == 1 else block


def _fade_out(rate: int, frames: int) -> Signal:
    count = min(round(FADE * rate), frames)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.arange(1, count + 1) / count), np.float32)


def _tail_of(fade: Signal, start: int, count: int, frames: int) -> Signal:
    """The gain [count] of the samples from `start`: 1, and the fade at the song's end."""
    gain = np.ones(count, np.float32)
    begins = frames - len(fade)  # where the fade begins in the song
    if start + count > begins:
        low = max(begins - start, 0)
        gain[low:] = fade[start + low - begins : start + count - begins]
    return gain


def _master(source: Path, out: Path, before: Loudness, settings: MixSettings, reporter: Reporter) -> dict[str, Any]:
    """Gain to the wanted loudness, through the limiter; corrected where limiting made it quieter."""
    gain = 0.0
    silent = before.integrated < TOO_QUIET
    if settings.loudness is not None and not silent:
        gain = min(settings.loudness - before.integrated, MOST_GAIN)
    elif silent:
        reporter.note("The mix is silent or nearly so; its level was left as it is.")
    for correction in range(CORRECTIONS + 1):
        span = Part(reporter, 1 - 0.5**correction, 1 - 0.5 ** (correction + 1))
        after, reduction = _limited(source, out, gain, settings.true_peak, span)
        if settings.loudness is None or silent:
            break
        missing = settings.loudness - after.integrated
        if missing < TOLERANCE or gain >= MOST_GAIN or correction == CORRECTIONS:
            break
        gain = min(gain + missing, MOST_GAIN)
    return {
        "loudness_before": _number(before.integrated), "loudness": _number(after.integrated),
        "loudness_wanted": settings.loudness, "loudness_range": _number(after.range), "gain": _number(gain),
        "true_peak": _number(after.true_peak), "limiter_reduction": _number(reduction),
    }  # fmt: skip


def _limited(source: Path, out: Path, gain: float, ceiling: float, reporter: Reporter) -> tuple[Loudness, float]:
    with PcmReader(source) as file, PcmWriter(out, file.rate, file.channels) as writer:
        level, limiter, meter = Gain(gain), Limiter(file.rate, file.channels, ceiling), Meter(file.rate, file.channels)
        for block in _limited_blocks(file, level, limiter, reporter):
            meter.add(block)
            writer.write(block)
    return meter.result(), limiter.max_reduction


def _limited_blocks(file: PcmReader, level: Gain, limiter: Limiter, reporter: Reporter) -> Iterator[Signal]:
    for start in range(0, file.frames, BLOCK):
        reporter.progress(start / file.frames, "mastering")
        yield limiter.process(level.process(file.read(start, min(BLOCK, file.frames - start))))
    yield limiter.finish()


def _number(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None
