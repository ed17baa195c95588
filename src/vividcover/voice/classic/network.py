"""A small network, in numpy, that knows one voice: anybody's sounds in, the same sounds as this voice makes them out.

There are no recordings of two people saying the same thing at the same moment, so the voice teaches itself. Its own
envelopes are disguised as other singers' (formants warped, high notes' blur, dimensions mixed, noise), normalised as a
stranger's will be, and the network learns to undo the disguise: a denoising autoencoder (P. Vincent et al., ICML 2008)
on frames in context. Frame and answer belong to the same instant, so words stay what they are. Trained with Adam
(D. Kingma, J. Ba, ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vividcover.voice.classic.features import TOP, Array, band_centres, mel
from vividcover.voice.classic.mapping import ORDER, Moments, cepstra, match, moments, resample_matrix

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Learning:
    """Numbers of the network and its training."""

    context: tuple[int, ...] = (-9, -5, -3, -1, 0, 1, 3, 5, 9)  # frames of 10 ms seen at once
    inputs: int = 20  # normalised cepstra 1..20 of each
    hidden: tuple[int, ...] = (256, 256)
    leak: float = 0.05  # slope of the rectifier below zero
    disguises: int = 16  # other singers made of this one
    warp: float = 0.05  # deviation of ln(vocal-tract length) among them, and
    bend: float = 0.03  # of ln(frequency) at seven places along the mel scale
    blur: tuple[float, float] = (120.0, 450.0)  # Hz: harmonics of a high note, this far apart, blur its envelope
    mixing: float = 0.05  # how much neighbouring cepstra leak into each other
    noise: float = 0.3  # deviations, added to every input
    steps: int = 2000
    batch: int = 256
    rate: float = 2e-3
    warm: int = 50  # steps
    most: int = 30_000  # frames that are learnt from
    run: int = 300  # frames: they are taken in runs of 3 s, as context matters
    seed: int = 20


L = Learning()
LAYERS = len(L.hidden) + 1
STANDARD = Moments(np.zeros((2, ORDER), np.float32), np.ones((2, ORDER), np.float32))  # what normalised cepstra have


@dataclass(frozen=True)
class Network:
    """Weights and biases of each layer, float32."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def __call__(self, normal: Array, voiced: Mask) -> Array:
        """Normalised cepstra [T, ORDER] of any singer → those of the voice, cepstra 1… only: [T, ORDER - 1]."""
        return self.layers(in_context(normal, voiced))[-1]

    def layers(self, x: Array) -> list[Array]:
        outputs = [x]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = x @ weight + bias
            if number < len(self.weights) - 1:
                x = np.maximum(x, np.float32(L.leak) * x)
            outputs.append(x)
        return outputs


def in_context(normal: Array, voiced: Mask) -> Array:
    """[T, len(context)·(inputs + 1)]: what the network sees; beyond the ends the first and last frame repeat."""
    frame = np.concatenate([normal[:, 1 : 1 + L.inputs], _sign(voiced)], axis=1)
    return _gather(frame, np.arange(len(frame)))


def _gather(frame: Array, places: NDArray[np.int64]) -> Array:
    around = np.clip(places[:, None] + np.array(L.context), 0, len(frame) - 1)
    return np.asarray(frame[around].reshape(len(places), -1))


def _sign(voiced: Mask) -> Array:
    return np.asarray(2 * voiced[:, None] - 1, dtype=np.float32)


def normalise(values: Array, voiced: Mask, own: Moments) -> Array:
    """Cepstra [T, ORDER] with mean 0 and deviation 1, voiced and unvoiced apart."""
    return match(values, voiced, own, STANDARD, limits=None)


def learn(item: tuple[Array, Mask]) -> Network:
    """In a child: the network of a voice from its bands [N, BANDS] and voicing [N], in the order of time."""
    bands, voiced = in_runs(*item, L.most)
    chance = np.random.default_rng(L.seed)
    values = cepstra(bands)
    wanted = normalise(values, voiced, moments(values, voiced))[:, 1:]
    disguised = [_disguise(bands, voiced, chance, number) for number in range(L.disguises)]

    def batches() -> Iterator[tuple[Array, Array]]:
        while True:
            frames = disguised[int(chance.integers(L.disguises))]
            places = chance.integers(0, len(bands), L.batch)
            seen = _gather(frames, places)
            yield seen + chance.normal(0, L.noise, seen.shape).astype(np.float32), wanted[places]

    return _descend(batches(), chance)


def in_runs(bands: Array, voiced: Mask, most: int) -> tuple[Array, Mask]:
    """At most `most` frames, in runs spread evenly, as context matters."""
    if len(bands) <= most:
        return bands, voiced
    starts = np.linspace(0, len(bands) - L.run, most // L.run).astype(int)
    places = (starts[:, None] + np.arange(L.run)).ravel()
    return bands[places], voiced[places]


def _disguise(bands: Array, voiced: Mask, chance: np.random.Generator, number: int) -> Array:
    """The voice as another singer's, normalised, with voicing: [N, inputs + 1]. Every fourth has no blur."""
    knots = np.linspace(mel(60.0), mel(TOP), 7)
    bent = np.interp(mel(band_centres()), knots, chance.normal(0, L.bend, 7)) + chance.normal(0, L.warp)
    seen = bands @ resample_matrix(band_centres() * np.exp(bent))
    spacing = np.exp(chance.uniform(*np.log(L.blur)))
    if number % 4:
        seen = np.where(voiced[:, None], seen @ _blur(float(spacing)), seen)
    values = cepstra(np.asarray(seen, dtype=np.float32))
    values = normalise(values, voiced, moments(values, voiced))
    apart = np.abs(np.subtract.outer(np.arange(ORDER), np.arange(ORDER)))
    leak = chance.normal(0, L.mixing, (ORDER, ORDER)) * np.exp(-apart / 4)
    values = values @ (np.eye(ORDER) + leak).astype(np.float32)
    values = normalise(values, voiced, moments(values, voiced))
    return np.concatenate([values[:, 1 : 1 + L.inputs], _sign(voiced)], axis=1)


def _blur(spacing: float) -> Array:
    """Right-multiply bands by this to see them through harmonics `spacing` Hz apart: [BANDS, BANDS]."""
    centres = band_centres()
    weight = np.exp(-0.5 * ((centres[:, None] - centres[None]) / (0.45 * spacing)) ** 2)
    return np.asarray(weight / weight.sum(0), dtype=np.float32)


def _descend(batches: Iterator[tuple[Array, Array]], chance: np.random.Generator) -> Network:
    sizes = (len(L.context) * (L.inputs + 1), *L.hidden, ORDER - 1)
    weights = [chance.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32) for a, b in pairwise(sizes)]
    weights[-1] *= np.float32(0.1)
    biases = [np.zeros(b, np.float32) for b in sizes[1:]]
    network = Network(tuple(weights), tuple(biases))
    parameters = [*weights, *biases]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    for step in range(1, L.steps + 1):
        seen, wanted = next(batches)
        gradients = _gradients(network, seen, wanted)
        rate = L.rate * (0.5 + 0.5 * float(np.cos(np.pi * step / L.steps))) * min(1.0, step / L.warm)
        for parameter, gradient, m, v in zip(parameters, gradients, first, second):
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient * gradient - v)
            parameter -= rate / (1 - 0.9**step) * m / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return network


def _gradients(network: Network, seen: Array, wanted: Array) -> list[Array]:
    """Of the mean over frames of the squared error, for every weight, then every bias."""
    outputs = network.layers(seen)
    error = (outputs[-1] - wanted) * np.float32(2 / len(seen))
    weights, biases = [], []
    for layer in range(len(network.weights) - 1, -1, -1):
        weights.append(outputs[layer].T @ error)
        biases.append(error.sum(0))
        if layer:
            slope = np.where(outputs[layer] > 0, np.float32(1), np.float32(L.leak))
            error = (error @ network.weights[layer].T) * slope
    return [*weights[::-1], *biases[::-1]]
