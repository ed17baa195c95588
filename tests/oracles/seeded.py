"""Weights and a test voice that any two programs can make alike, so that none need to be stored.

An oracle script fills the peer's network, a test fills ours: the same names give the same numbers. The values follow
from a tensor's name, its shape and a seed alone, never from the order of the tensors.

    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in fill(shapes_of(theirs)).items()})
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# torch's newer spelling of weight norm → the published one, so that both are filled alike
SPELLINGS = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}


def canonical(name: str) -> str:
    """A tensor's published name: weight norm spelled `weight_g`, `weight_v`."""
    for new, old in SPELLINGS.items():
        name = name.replace(new, old)
    return name


def shapes_of(module: Any) -> dict[str, tuple[int, ...]]:
    """Name → shape of everything in a torch module's state."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def generator(name: str, seed: int = 0) -> np.random.Generator:
    """A generator of its own for every name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(canonical(name).encode()) ^ seed))


def noise(name: str, *shape: int, seed: int = 0) -> Array:
    """Standard normal numbers, float32, that follow from the name."""
    return generator(name, seed).standard_normal(shape, dtype=np.float32)


def fill(names_and_shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Array]:
    """Values for every tensor of a network, float32, scaled so that signals neither vanish nor explode.

    Weights are N(0, 1/fan-in), gains and norm scales near 1, variances positive, biases and means small.
    `num_batches_tracked` is int64 zero.
    """
    return {name: _values(name, tuple(shape), seed) for name, shape in names_and_shapes.items()}


def _values(name: str, shape: tuple[int, ...], seed: int) -> Array:
    last = canonical(name).rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    normal = noise(name, *shape, seed=seed)
    if last == "running_var":
        return 1 + 0.2 * np.abs(normal)
    if last in ("weight_g", "gamma") or (last == "weight" and len(shape) <= 1):
        return 1 + 0.1 * normal
    if last.startswith(("bias", "beta", "running_mean")) or len(shape) <= 1:
        return 0.05 * normal
    fan_in = shape[-1] if "emb" in last else int(np.prod(shape[1:]))
    return normal * np.float32(fan_in**-0.5)


def signal(seconds: float, rate: int, seed: int = 0) -> Array:
    """A test voice, float32 [seconds*rate], peak 0.5: gliding notes with vibrato, noise bursts, and rests."""
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    random = generator("signal", seed)
    count = max(2, int(seconds * 2) + 1)  # about two notes a second
    notes = random.integers(40, 62, count)  # MIDI: 82 to 294 Hz
    where = np.linspace(0, max(seconds, 1e-9), count)
    pitch = np.interp(time, where, notes) + 0.4 * np.sin(2 * np.pi * 5.5 * time)  # glides, and 5.5 Hz vibrato
    f0 = 440 * 2 ** ((pitch - 69) / 12)
    phase = 2 * np.pi * np.cumsum(f0) / rate
    voice = np.zeros(samples)
    for harmonic in range(1, 25):
        below = harmonic * f0 < 0.45 * rate
        formant = 1 / (1 + ((harmonic * f0 - 600) / 400) ** 2) + 0.5 / (1 + ((harmonic * f0 - 1700) / 500) ** 2) + 0.02
        voice += below * formant * np.sin(harmonic * phase)
    beat = (time * 2.0) % 1.0  # half a second each: a burst, the note, a rest
    burst = 0.6 * random.standard_normal(samples) * np.exp(-(((beat - 0.06) / 0.03) ** 2))
    mixed = voice * ((beat > 0.1) & (beat < 0.85)) + burst
    return (0.5 * mixed / max(float(np.abs(mixed).max()), 1e-9)).astype(np.float32)
