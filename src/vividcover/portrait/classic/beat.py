"""Beats of a song: onset strength from a streaming pass, tempo, then dynamic programming.

Source: D. P. W. Ellis, "Beat Tracking by Dynamic Programming", Journal of New Music Research 36(1), 2007.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from vividcover.song.pcm import PcmReader
from vividcover.workspace import Reporter, Silent

RATE = 11_025  # Hz, analysis
HOP = 221  # samples: 49.9 frames a second
FRAME_RATE = RATE / HOP
WINDOW = 512  # samples, Hann
BANDS = 24  # logarithmic bands from 60 Hz up
CENTRE_TEMPO, TEMPO_WIDTH = 112.0, 0.9  # beats a minute, octaves: what listeners tap to
TIGHTNESS = 200.0  # how much a steady beat counts against strong onsets
LEAST = 0.05, 3.3  # autocorrelation of a beat: at least a + b / sqrt(frames); noise has 1 / sqrt(frames)

Curve = NDArray[np.float64]


def onsets(song: Path, *, reporter: Reporter | None = None) -> Curve:
    """Onset strength [T] at `FRAME_RATE`: rises of the band levels (dB), above their own local mean, unit deviation."""
    reporter = reporter or Silent()
    window = np.hanning(WINDOW).astype(np.float32)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    edges = np.geomspace(60.0, 5000.0, BANDS + 1)
    select = np.stack([(bins >= a) & (bins < max(b, a + 25)) for a, b in pairwise(edges)], 1).astype(np.float32)
    rows: list[NDArray[np.float32]] = []
    tail = np.zeros(WINDOW // 2, np.float32)
    with PcmReader(song) as file:
        resampler = soxr.ResampleStream(file.rate, RATE, 1, dtype="float32")
        read = 0
        for block in file.blocks(2 * file.rate):
            reporter.check()
            read += block.shape[1]
            tail = np.concatenate([tail, resampler.resample_chunk(block.mean(axis=0), last=read >= file.frames)])
            count = (len(tail) - WINDOW) // HOP + 1
            if count > 0:
                frames = np.lib.stride_tricks.sliding_window_view(tail, WINDOW)[: count * HOP : HOP]
                power = np.abs(np.fft.rfft(frames * window, axis=1)).astype(np.float32) ** 2 @ select
                rows.append(power)
                tail = tail[count * HOP :]
    span = int(FRAME_RATE) | 1
    if sum(map(len, rows)) < 2 * span:
        return np.zeros(0)
    levels = 10 * np.log10(np.concatenate(rows) + 1e-4)
    rise = np.maximum(np.diff(levels, axis=0, prepend=levels[:1]), 0).mean(1).astype(np.float64)
    rise -= np.convolve(rise, np.ones(span) / span, mode="same")
    return np.asarray(rise / (rise.std() + 1e-9))


def track(strength: Curve) -> Curve:
    """Beat times in seconds [B]; empty where the song has no clear beat."""
    if len(strength) < 4 * FRAME_RATE:
        return np.zeros(0)
    lags = np.arange(int(FRAME_RATE * 60 / 200), int(FRAME_RATE * 60 / 50) + 1)
    size = 1 << int(np.ceil(np.log2(2 * len(strength))))
    power = np.abs(np.fft.rfft(strength, size)) ** 2
    correlation = np.fft.irfft(power)[: lags[-1] + 1]
    correlation = correlation / (correlation[0] + 1e-9)
    prior = np.exp(-0.5 * (np.log2(60 * FRAME_RATE / lags / CENTRE_TEMPO) / TEMPO_WIDTH) ** 2)
    period = int(lags[np.argmax(correlation[lags] * prior)])
    if correlation[period] < LEAST[0] + LEAST[1] / np.sqrt(len(strength)):
        return np.zeros(0)
    offsets = np.arange(-2 * period, -period // 2 + 1)
    cost = -TIGHTNESS * np.log(-offsets / period) ** 2
    score, back = strength.copy(), np.full(len(strength), -1)
    for t in range(2 * period, len(strength)):
        options = score[t + offsets] + cost
        best = int(np.argmax(options))
        if options[best] > 0:
            score[t] += options[best]
            back[t] = t + offsets[best]
    beats = [len(score) - 1 - int(np.argmax(score[: -2 * period - 1 : -1]))]
    while back[beats[-1]] >= 0:
        beats.append(int(back[beats[-1]]))
    return np.asarray(beats[::-1]) / FRAME_RATE
