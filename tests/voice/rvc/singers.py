"""Two test singers, and ears for them that need no weights: what the tests and the bench of learning stand on.

A singer is a source-filter voice: pulses at a pitch through four formants. The two differ as people do, in pitch and in
the length of the vocal tract, and sing the same kind of random syllables. `content` stands in for ContentVec, whose
weights no test can have: the shape of the spectrum, warped to a common tract length, through a fixed random matrix. So
it carries what is sung and hides who sings, which is what a voice's network must add.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter

from vividcover.voice.rvc.live import write_wav

Array = np.ndarray[Any, Any]
HEARD = 16_000  # Hz
VOWELS = {  # Hz of the first four formants of an adult's a, e, i, o, u
    "a": (730, 1090, 2440, 3400), "e": (530, 1840, 2480, 3500), "i": (270, 2290, 3010, 3700),
    "o": (570, 840, 2410, 3300), "u": (300, 870, 2240, 3200),
}  # fmt: skip
WIDTHS = (80.0, 100.0, 130.0, 180.0)  # Hz


@dataclass(frozen=True)
class Singer:
    pitch: float  # Hz, in the middle
    tract: float  # all formants times this


LOW, HIGH = Singer(110.0, 0.88), Singer(220.0, 1.18)


def sing(singer: Singer, seconds: float, rate: int, seed: int) -> Array:
    """Random syllables, float32 [seconds·rate], peak 0.5."""
    random = np.random.default_rng(seed)
    out = []
    while sum(map(len, out)) < seconds * rate:
        length = int(random.uniform(0.18, 0.4) * rate)
        if random.random() < 0.15:
            out.append(np.zeros(length // 2))
            continue
        vowel = VOWELS[str(random.choice(list(VOWELS)))]
        notes = singer.pitch * 2 ** (np.linspace(*random.uniform(-4, 4, 2), length) / 12)
        phase = np.cumsum(notes) / rate
        pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(rate / notes)
        sound = lfilter([1.0], [1.0, -0.96], pulses + 0.01 * random.standard_normal(length))
        for centre, width in zip(vowel, WIDTHS):
            radius, angle = np.exp(-np.pi * width / rate), 2 * np.pi * centre * singer.tract / rate
            a1, a2 = -2 * radius * np.cos(angle), radius**2
            sound = lfilter([1 + a1 + a2], [1.0, a1, a2], sound)
        breath = 0.02 * random.standard_normal(length)
        edge = np.minimum(1.0, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.02 * rate))
        out.append((sound / np.abs(sound).max() + breath) * edge * random.uniform(0.6, 1.0))
    voice = np.concatenate(out)[: int(seconds * rate)]
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)


def read(path: Path) -> Array:
    """What `write_wav` wrote."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767


def write_recordings(folder: Path, singer: Singer, count: int, seconds: float, rate: int, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_wav(folder / f"split_{number}.wav", sing(singer, seconds, rate, seed + number), rate)
    return folder


def content(width: int = 768) -> Any:
    """16 kHz [B, N] → [B, (N-80)//320, width]: warped cepstra through a fixed matrix."""
    matrix = np.random.default_rng(7).standard_normal((20, width)).astype(np.float32) / 4

    def features(sound: Array) -> Array:
        return np.stack([_cepstra(one) @ matrix for one in sound]).astype(np.float32)

    return features


def _cepstra(sound: Array) -> Array:
    """[T, 20] at 50 Hz; the spectrum is first stretched to where its centre is the same for every singer."""
    count = (len(sound) - 80) // 320
    padded = np.pad(sound, (152, 400))
    frames = np.stack([padded[320 * i : 320 * i + 512] for i in range(count)]) * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2 + 1e-7
    mean = power.mean(axis=0)[4:160]
    centre = float((np.arange(4, 160) * mean**0.25).sum() / (mean**0.25).sum())
    edges = np.linspace(0, 40, 42) * (centre / 80.0)  # bins of 31 Hz, as far apart as the singer's tract says
    edges = np.cumsum(np.concatenate(([2.0], np.diff(edges) * np.linspace(1, 5, 41))))
    bins = np.arange(257)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bands = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
    logs = np.log(power @ bands.T + 1e-6)
    logs -= logs.max(axis=1, keepdims=True)
    basis = np.cos(np.pi * np.arange(20)[:, None] * (np.arange(40) + 0.5) / 40)
    cepstra = np.maximum(logs, -10) @ basis.T / 20
    return cepstra.astype(np.float32)


def pitch(sound: Array) -> Array:
    """16 kHz [N] → Hz [N//160 + 1]: autocorrelation, 0 where it is weak."""
    count = len(sound) // 160 + 1
    padded = np.pad(sound, (512, 1024))
    frames = np.stack([padded[160 * i : 160 * i + 1024] for i in range(count)])
    frames = frames - frames.mean(axis=1, keepdims=True)
    spectra = np.abs(np.fft.rfft(frames * np.hanning(1024), 2048)) ** 2
    correlation = np.fft.irfft(spectra)[:, 40:320]  # 50 to 400 Hz
    power = np.fft.irfft(spectra)[:, :1]
    best = correlation.argmax(axis=1)
    strength = correlation[np.arange(count), best] / np.maximum(power[:, 0], 1e-9)
    return np.where((strength > 0.3) & (power[:, 0] > 1e-2), HEARD / (best + 40.0), 0.0).astype(np.float32)


def envelope(sound: Array) -> Array:
    """The average shape of the loud frames' spectrum [112], log power in 31 Hz steps, smoothed."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 512)[::256] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    power = power[power.sum(axis=1) > 0.05 * power.sum(axis=1).mean(), 2:120]
    shape = np.log(power / power.sum(axis=1, keepdims=True) + 1e-6).mean(axis=0)
    return np.convolve(shape, np.ones(7) / 7, mode="valid")


def distance(one: Array, other: Array) -> float:
    """How differently two singers sound: mean difference of their envelopes, in nepers of power."""
    return float(np.abs(envelope(one) - envelope(other)).mean())


def ears() -> Any:
    return content(), pitch
