"""Promises of song/loudness.py: it measures as the standards say, and nothing gets past the limiter."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from making import RATE, error_db, music, tone

from vividcover.song.loudness import Limiter, Loudness, Meter, k_weighting, measure
from vividcover.song.pcm import write_pcm


def sines(levels: list[tuple[float, float]], rate: int = 48_000) -> np.ndarray:
    """1 kHz in both channels; (dBFS, seconds) one after another, as EBU Tech 3341 and 3342 describe their tests."""
    parts = [10 ** (db / 20) * np.sin(2 * np.pi * 1000 * np.arange(round(rate * s)) / rate) for db, s in levels]
    return np.stack([np.concatenate(parts)] * 2).astype(np.float32)


def meter(signal: np.ndarray, rate: int = 48_000, block: int = 9_999) -> Loudness:
    it = Meter(rate, len(signal))
    for start in range(0, signal.shape[1], block):
        it.add(signal[:, start : start + block])
    return it.result()


def limited(signal: np.ndarray, ceiling: float = -1.0, block: int = 30_000) -> tuple[np.ndarray, Limiter]:
    limiter = Limiter(RATE, len(signal), ceiling)
    blocks = [limiter.process(signal[:, i : i + block]) for i in range(0, signal.shape[1], block)]
    return np.concatenate([*blocks, limiter.finish()], axis=1), limiter


def peak_4x(signal: np.ndarray) -> float:
    """dBTP by another interpolator than ours."""
    padded = np.pad(signal.astype(float), ((0, 0), (1000, 1000)))
    return 20 * math.log10(np.abs(soxr.resample(padded.T, RATE, 4 * RATE, quality="VHQ")).max())


def test_the_filters_are_those_of_bs1770_table_1_and_2() -> None:
    shelf, highpass = k_weighting(48_000)
    assert shelf == pytest.approx(
        [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585], abs=1e-8
    )
    assert highpass == pytest.approx([1, -2, 1, 1, -1.99004745483398, 0.99007225036621], abs=1e-8)


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000, 96_000])
def test_a_sine_of_minus_23_reads_minus_23_at_any_rate(rate: int) -> None:
    for level in (-23.0, -33.0):
        assert meter(sines([(level, 5)], rate), rate).integrated == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize(
    "levels",
    [[(-36, 10), (-23, 60), (-36, 10)], [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
     [(-26, 20), (-20, 20.1), (-26, 20)]],
)  # fmt: skip
def test_quiet_passages_are_gated_as_in_tech_3341(levels: list[tuple[float, float]]) -> None:
    assert meter(sines(levels)).integrated == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [([(-20, 20), (-30, 20)], 10), ([(-20, 20), (-15, 20)], 5), ([(-40, 20), (-20, 20)], 20),
     ([(-50, 20), (-35, 20), (-20, 20), (-35, 20), (-50, 20)], 15)],
)  # fmt: skip
def test_the_loudness_range_is_that_of_tech_3342(levels: list[tuple[float, float]], wanted: float) -> None:
    assert meter(sines(levels)).range == pytest.approx(wanted, abs=1.0)


@pytest.mark.parametrize(
    ("divisor", "level", "phase", "wanted"),
    [(4, 0.5, 0, -6.0), (4, 0.5, 45, -6.0), (6, 0.5, 60, -6.0), (8, 0.5, 67.5, -6.0), (4, 1.41, 45, 3.0)],
)
def test_peaks_between_the_samples_are_found_as_in_tech_3341(
    divisor: int, level: float, phase: float, wanted: float
) -> None:
    n = np.arange(48_000)
    fade = np.minimum(1, np.minimum(n, n[::-1]) / 4_800)
    x = level * np.sin(2 * np.pi * n / divisor + math.radians(phase)) * fade
    assert wanted - 0.4 < meter(x[None].astype(np.float32)).true_peak < wanted + 0.2


def test_it_agrees_with_pyloudnorm() -> None:
    """Golden values of pyloudnorm 0.1 (filter class "DeMan") for the same signals."""
    for rate, wanted in ((44_100, -16.62663), (48_000, -16.61055)):
        t = np.arange(rate * 10) / rate
        noise = np.random.default_rng(3).standard_normal((2, rate * 10)) * 0.05 * (1 + np.sin(0.4 * np.pi * t))
        assert meter(noise.astype(np.float32), rate).integrated == pytest.approx(wanted, abs=1e-3)


def test_it_agrees_with_ffmpegs_meter(tmp_path: Path) -> None:
    path = write_pcm(tmp_path / "x.wav", music(12.0))
    ours = measure(path)
    theirs: dict[str, str] = {}
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        graph = av.filter.Graph()
        source, sink = graph.add_abuffer(template=stream), graph.add("abuffersink")
        graph.link_nodes(source, graph.add("ebur128", "metadata=1:peak=true"), sink).configure()
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    theirs |= graph.pull().metadata
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    assert ours.integrated == pytest.approx(float(theirs["lavfi.r128.I"]), abs=0.1)
    assert ours.range == pytest.approx(float(theirs["lavfi.r128.LRA"]), abs=0.5)
    assert ours.true_peak == pytest.approx(20 * math.log10(float(theirs["lavfi.r128.true_peak"])), abs=0.2)


def test_silence_and_a_moment_have_no_loudness() -> None:
    assert meter(np.zeros((2, 48_000), np.float32)) == Loudness(-math.inf, 0.0, -math.inf)
    assert meter(tone(seconds=0.1)).integrated == -math.inf


def test_the_size_of_the_blocks_does_not_matter() -> None:
    x = music(3.0)
    assert meter(x, block=100_000).integrated == pytest.approx(meter(x, block=777).integrated, abs=1e-9)
    one, _ = limited(x * 4, block=200_000)
    two, _ = limited(x * 4, block=1_234)
    assert np.array_equal(one, two)


# --- limiter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", [-1.0, -6.0])
@pytest.mark.parametrize("kind", ["music", "square", "between samples", "high", "clicks", "start"])
def test_nothing_gets_past_the_limiter(kind: str, ceiling: float) -> None:
    t = np.arange(2 * RATE) / RATE
    noise = np.random.default_rng(0)
    x = {
        "music": music(2.0) * 6,
        "square": np.stack([np.sign(np.sin(2 * np.pi * 110 * t)) * 3] * 2),
        "between samples": np.stack([np.sin(np.pi / 2 * np.arange(len(t)) + 0.78) * 2] * 2),
        "high": np.stack([np.sin(2 * np.pi * 17_001 * t) * 2] * 2),
        "clicks": (noise.random((2, len(t))) > 0.9995) * noise.standard_normal((2, len(t))) * 5,
        "start": np.stack([np.exp(-3 * t) * np.sin(2 * np.pi * 300 * t) * 4] * 2),
    }[kind].astype(np.float32)
    y, limiter = limited(x, ceiling)
    assert y.shape == x.shape
    assert peak_4x(x) > 0 > ceiling >= peak_4x(y)
    assert limiter.max_reduction > 1


def test_below_the_ceiling_the_limiter_changes_not_a_bit() -> None:
    x = music(2.0)
    x *= np.float32(0.8 / np.abs(x).max())
    y, limiter = limited(x)
    assert np.array_equal(x, y)
    assert limiter.max_reduction == 0.0


def test_the_limiter_comes_back_after_a_peak() -> None:
    x = tone(440, 3.0, 0.5)
    x[:, RATE : RATE + 50] *= 6
    y, _ = limited(x)
    assert error_db(x[:, : RATE - 500], y[:, : RATE - 500]) < -100
    assert error_db(x[:, 2 * RATE :], y[:, 2 * RATE :]) < -60


def test_the_limiter_does_not_distort_bass() -> None:
    t = np.arange(4 * RATE) / RATE
    y, _ = limited(np.stack([1.5 * np.sin(2 * np.pi * 50 * t)] * 2).astype(np.float32))
    spectrum = np.abs(np.fft.rfft(y[0, RATE : 3 * RATE] * np.hanning(2 * RATE)))
    harmonics = math.sqrt(sum(float(spectrum[100 * k - 3 : 100 * k + 4].max()) ** 2 for k in (2, 3, 4, 5)))
    assert harmonics < 0.01 * spectrum[97:104].max()


def test_a_very_short_signal_keeps_its_length() -> None:
    for count in (1, 10, 47, 48, 300):
        x = tone(seconds=0.1)[:, :count] * 4
        assert limited(x)[0].shape == x.shape
