"""Media for the song tests: made here, small, and wrong in every way that users' files are wrong."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 44_100
SAMPLE = Path(__file__).parents[2] / "sample" / "song"


def tone(frequency: float = 440.0, seconds: float = 2.0, level: float = 0.5, rate: int = RATE) -> np.ndarray:
    """A stereo sine [2, samples]; the right channel is a fifth higher."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([np.sin(2 * np.pi * frequency * k * t) for k in (1.0, 1.5)]).astype(np.float32) * np.float32(level)


def music(seconds: float = 6.0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Something like music [2, samples]: chords with attacks, noise bursts, different left and right."""
    noise = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    out = np.zeros((2, len(t)))
    for beat in np.arange(0, seconds, 0.5):
        since = t - beat
        shape = np.where(since >= 0, np.exp(-4 * np.maximum(since, 0)), 0)
        for note in noise.choice([220, 261.6, 329.6, 392, 440, 523.3, 660], 3, replace=False):
            out += shape * np.sin(2 * np.pi * note * since) * noise.uniform(0.05, 0.15, (2, 1))
        hit = np.where((since >= 0) & (since < 0.1), np.exp(-60 * np.maximum(since, 0)), 0)
        out += hit * noise.standard_normal((2, len(t))) * 0.2
    return out.astype(np.float32)


def media(
    path: Path, signal: np.ndarray | None, *, rate: int = RATE, muxer: str | None = None, codec: str = "pcm_s16le",
    sample: str = "s16", layout: str = "stereo", video: float = 0.0, fps: int = 25,
) -> Path:  # fmt: skip
    """A file of any kind that FFmpeg writes, with `signal` [channels, samples] and/or `video` seconds of pictures."""
    with av.open(str(path), "w", format=muxer) as container:
        pictures: Any = None
        if video:
            pictures = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "bf": "2"})
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
        sound: Any = None
        if signal is not None:
            sound = container.add_stream(codec, rate=rate)
            sound.layout = layout
            sound.codec_context.format = sample
        for number in range(round(video * fps)):
            shade = 255 if number % fps == 0 else 3 * (number % fps)
            frame: Any = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(pictures.encode(frame))
        if pictures:
            container.mux(pictures.encode(None))
        if signal is not None:
            interleaved = np.ascontiguousarray(signal.T.reshape(1, -1), np.float32)
            frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def lag(x: np.ndarray, y: np.ndarray) -> int:
    """Samples by which y is later than x (first channels), by cross-correlation."""
    n = min(x.shape[1], y.shape[1])
    product = np.fft.rfft(y[0, :n], 2 * n) * np.fft.rfft(x[0, :n], 2 * n).conj()
    place = int(np.argmax(np.fft.irfft(product)))
    return place if place < n else place - 2 * n


def error_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Power of the difference against the reference, dB."""
    power = float((reference.astype(float) ** 2).sum())
    return 10 * np.log10(float(((other.astype(float) - reference) ** 2).sum()) / power + 1e-20)
