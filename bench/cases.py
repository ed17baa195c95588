"""Songs whose parts are known: every mix is a true sum of vocals and instrumental, from the sample set and synthesis.

    for case in separation_cases("held"): …      # "tuned", "held", "quick" or "all"

The recipe's choices were made while looking at the cases "tuned"; "held" was kept aside for measuring. Stereo float32
[2, n] at 44.1 kHz; deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyworld
import soxr
from scipy.signal import fftconvolve

from band import RATE, Array, band, lowpass, pan

SAMPLE = Path(__file__).resolve().parent.parent / "sample"
QUICK = ("song-b", "mono-0dB-band", "wide-harmonies-no-lead", "a-cappella-b", "no-vocals-band")
QUICK_SECONDS = 7.0


@dataclass(frozen=True)
class Case:
    name: str
    vocals: Array  # [2, n] float32
    instrumental: Array
    lead: Array | None = None  # of the vocals, where others sing along

    @property
    def song(self) -> Array:
        return self.vocals + self.instrumental

    @property
    def seconds(self) -> float:
        return float(self.vocals.shape[1] / RATE)


def load(path: Path, rate: int = RATE) -> Array:
    """Any audio file → [2, n] float32 at `rate`; mono is doubled."""
    import av

    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo")
        blocks, was = [], rate
        for frame in container.decode(audio=0):
            was = frame.sample_rate
            blocks += [out.to_ndarray() for out in resampler.resample(frame)]
        blocks += [out.to_ndarray() for out in resampler.resample(None)]
    signal = np.concatenate(blocks, axis=1)
    if was != rate:
        signal = soxr.resample(signal.T, was, rate).T
    return np.ascontiguousarray(signal, np.float32)


# --- what is done to a voice ---------------------------------------------------------------------------------------


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)) + 1e-20))


def _fit(x: Array, n: int) -> Array:
    return np.pad(x, ((0, 0), (0, max(0, n - x.shape[1]))))[:, :n]


def _room(x: Array, seconds: float = 1.8, wet: float = 0.5, seed: int = 0) -> Array:
    rng, n = np.random.default_rng(seed), int(seconds * RATE)
    tail = lowpass(rng.standard_normal((2, n)) * np.exp(-6.9 * np.arange(n) / n), 5000, order=2)
    tail[:, :600] = 0
    tail /= np.sqrt((tail**2).sum(1, keepdims=True))
    return x + wet * np.stack([fftconvolve(x.mean(0), side)[: x.shape[1]] for side in tail])


def _chorus(mono: Array, ms: float, depth: float, hz: float, phase: float = 0) -> Array:
    n = np.arange(len(mono))
    late = (ms + depth * np.sin(2 * np.pi * hz * n / RATE + phase)) * RATE / 1000
    return np.interp(n - late, n, mono)


def _sung_at(mono: Array, semitones: float) -> Array:
    """The same voice on other notes: WORLD, formants kept."""
    x = np.asarray(soxr.resample(mono, RATE, 22_050), np.float64)
    f0, t = pyworld.harvest(x, 22_050, 70, 800, 5.0)
    envelope, noise = pyworld.cheaptrick(x, f0, t, 22_050), pyworld.d4c(x, f0, t, 22_050)
    y = pyworld.synthesize(f0 * 2 ** (semitones / 12), envelope, noise, 22_050, 5.0)
    return _fit(soxr.resample(y, 22_050, RATE)[None], len(mono))[0]


def _harmonies(mono: Array, lead: float = 1.0) -> Array:
    """Lead in the centre, a third above on the left, a fourth below on the right."""
    above, below = _chorus(_sung_at(mono, 4), 9, 1.5, 0.8), _chorus(_sung_at(mono, -5), 15, 2, 0.6)
    return pan(mono * lead, 0) + 0.8 * pan(above, -0.9) + 0.8 * pan(below, 0.9)


def _haas(mono: Array) -> Array:
    return np.stack([mono, _chorus(mono, 14, 0, 0)])


def _wide_double(mono: Array) -> Array:
    return np.stack([_chorus(mono, 11, 2, 0.7), _chorus(mono, 17, 2.5, 0.9, 2)])


def _mono(x: Array) -> Array:
    return np.repeat(x.mean(0, keepdims=True), 2, axis=0)


def _mix(name: str, vocals: Array, instrumental: Array, db: float | None = None, lead: Array | None = None) -> Case:
    """`db`: level of the vocals, where they sound, above the instrumental; None leaves both as they are."""
    vocals = _fit(vocals, instrumental.shape[1])
    first = vocals if lead is None else _fit(lead, instrumental.shape[1])
    if db is not None:
        sounding = np.abs(vocals).max(0) > 0.02 * np.abs(vocals).max()
        louder = rms(instrumental) / rms(vocals[:, sounding]) * 10 ** (db / 20)
        vocals, first = vocals * louder, first * louder
    gain = 0.9 / (np.abs(vocals + instrumental).max() + 1e-9)
    vocals, instrumental, first = ((x * gain).astype(np.float32) for x in (vocals, instrumental, first))
    return Case(name, vocals, instrumental, None if lead is None else first)


# --- the material --------------------------------------------------------------------------------------------------


@lru_cache
def _song() -> tuple[Array, Array]:
    return load(SAMPLE / "song" / "vocals.flac"), load(SAMPLE / "song" / "instrumental.flac")


@lru_cache
def _phrases(*which: int) -> Array:
    """Sung clips of the sample person with pauses between them [2, n]."""
    clips = [load(SAMPLE / "voice" / f"voice_{k}_sung.flac") for k in which]
    return np.concatenate([np.pad(clip, ((0, 0), (int(0.8 * RATE), RATE))) for clip in clips], axis=1)


def _none(like: Array) -> Array:
    return np.zeros_like(like)


# --- the cases -----------------------------------------------------------------------------------------------------


def tuned(limit: int | None = None) -> dict[str, Any]:
    """name → function that makes the case, from at most `limit` samples of voice."""
    vocals, backing = _song()
    first = slice(0, 15 * RATE)
    voice = _phrases(14, 15)[:, :limit]
    seconds, one = voice.shape[1] / RATE, voice[0]
    behind = _fit(backing, voice.shape[1])
    pads, strings = ("pad", "bass"), ("pluck", "drums")
    return {
        "song-a": lambda n: _mix(n, vocals[:, first], backing[:, first]),
        "centred--3dB-band": lambda n: _mix(n, voice, band(seconds, 1, 50, 96), -3),
        "centred-+3dB-pads": lambda n: _mix(n, voice, band(seconds, 2, 47, 84, pads), 3),
        "mono-0dB-song": lambda n: _mix(n, voice, _mono(behind), 0),
        "haas-0dB-song": lambda n: _mix(n, _haas(one), behind, 0),
        "harmonies-0dB-band": lambda n: _mix(n, _harmonies(one), band(seconds, 3, 52, 110), 0, pan(one, 0)),
        "hard-panned-0dB": lambda n: _mix(n, voice, band(seconds, 4, 45, 90, strings, 1.0), 0),
        "off-centre-0dB": lambda n: _mix(n, pan(one, -0.45), behind, 0),
        "reverb-0dB-song": lambda n: _mix(n, _room(voice), behind, 0),
        "a-cappella": lambda n: _mix(n, voice, _none(voice)),
        "a-cappella-reverb": lambda n: _mix(n, _room(voice, 1.2, 0.35), _none(voice)),
        "no-vocals-song": lambda n: _mix(n, _none(backing[:, first]), backing[:, first]),
        "quiet-song": lambda n: Case(n, 0.003 * vocals[:, first], 0.003 * backing[:, first]),
    }


def held(limit: int | None = None) -> dict[str, Any]:
    vocals, backing = _song()
    late = slice(15 * RATE, 15 * RATE + limit if limit else None)
    voice = _phrases(16, 15)[:, :limit]
    seconds, one = voice.shape[1] / RATE, voice[0]
    dull = band(seconds, 20, 50, 112)
    speech = np.concatenate([load(SAMPLE / "voice" / f"voice_{k:02d}.flac") for k in (3, 7)], axis=1)
    return {
        "song-b": lambda n: _mix(n, vocals[:, late], backing[:, late]),
        "centred--6dB-band": lambda n: _mix(n, voice, band(seconds, 11, 53, 120), -6),
        "centred-0dB-band2": lambda n: _mix(n, voice, band(seconds, 12, 49, 76), 0),
        "mono-0dB-band": lambda n: _mix(n, voice, _mono(band(seconds, 13, 46, 104)), 0),
        "mono--3dB-song": lambda n: _mix(n, vocals[:, late], _mono(backing[:, late]), -3),
        "wide-double-0dB-band": lambda n: _mix(n, _wide_double(one), band(seconds, 14, 51, 92), 0),
        "harmonies-+3dB-song": lambda n: _mix(
            n, _harmonies(vocals[0, late]), backing[:, late], 3, pan(vocals[0, late], 0)
        ),
        "wide-harmonies-no-lead": lambda n: _mix(n, _harmonies(one, 0.0), band(seconds, 15, 47, 100), 0),
        "hard-panned--3dB": lambda n: _mix(n, voice, band(seconds, 16, 50, 98, ("pluck", "pad"), 1.0), -3),
        "off-centre-0dB-band": lambda n: _mix(n, pan(one, 0.5), band(seconds, 17, 48, 88), 0),
        "hard-left-vocals": lambda n: _mix(n, pan(one, -1), band(seconds, 18, 45, 105), 0),
        "reverb-0dB-band": lambda n: _mix(n, _room(voice, 2.5, 0.7, 3), band(seconds, 19, 52, 94), 0),
        "8khz-0dB": lambda n: _mix(n, lowpass(voice, 3600), lowpass(dull, 3600), 0),
        "a-cappella-b": lambda n: _mix(n, vocals[:, late], _none(vocals[:, late])),
        "a-cappella-harmonies": lambda n: _mix(n, _harmonies(one), _none(voice), None, pan(one, 0)),
        "speech": lambda n: _mix(n, speech, _none(speech)),
        "no-vocals-band": lambda n: _mix(n, np.zeros((2, 12 * RATE)), band(12, 21, 49, 100)),
        "short-10s": lambda n: _mix(n, voice[:, : 10 * RATE], band(10, 22, 51, 90), 0),
    }


def separation_cases(which: str = "all") -> Iterator[tuple[str, Case]]:
    """("tuned" | "held", case), made one at a time."""
    limit = int(QUICK_SECONDS * RATE) if which == "quick" else None
    for group, makers in (("tuned", tuned(limit)), ("held", held(limit))):
        for name, make in makers.items():
            if which in (group, "all") or (which == "quick" and name in QUICK):
                case = make(name)
                lead = case.lead if case.lead is None else case.lead[:, :limit]
                yield group, Case(name, case.vocals[:, :limit], case.instrumental[:, :limit], lead)
