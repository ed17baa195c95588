"""The pitch of a voice, 100 times a second, by any of the methods that RVC and its relatives name.

    track(samples, "rmvpe", weights=weights)                  # → Hz, float32 [N//160 + 1], 0 where there is no pitch
    tracker = Tracker("fcpe", weights=weights, device=device)  # loads its net once; then, for each recording:
    tracker(samples)

`samples` are mono, 16 kHz, float32. `weights` is anything with `path(name) -> Path`, such as the module
`vividcover.weights`. A recording of any length is handled in bounded memory, with the result of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import AudioError, ParameterError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]
Unvoiced = Literal["zero", "interpolate"]

RATE, HOP = 16_000, 160  # Hz, samples
SHORTEST = 1120  # samples: what is shorter is followed by silence, for windows and reflections to fit

# method → the weights that it needs ("" for none)
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "rmvpe": "rmvpe", "rmvpe_gpu": "rmvpe", "fcpe": "fcpe", "crepe": "crepe-full", "crepe-tiny": "crepe-tiny",
        "mangio-crepe": "crepe-full", "mangio-crepe-tiny": "crepe-tiny", "harvest": "", "dio": "", "pm": "",
    }
)  # fmt: skip


class Weights(Protocol):
    """Where files of weights are."""

    def path(self, name: str, /) -> Path: ...


class Tracker:
    """One method with its settings and its net.

    `threshold` is what a frame must exceed to be voiced (rmvpe 0.03, fcpe 0.006, crepe 0.1 when None).
    `crepe_hop_length` is in samples, for mangio-crepe. `unvoiced="interpolate"` draws lines through the rests.
    `median` is the width in frames of a median over voiced frames, 0 for none. `parity` holds to the original programs
    where we do better: CREPE's paths cut at every 512 frames, its steps of 20 cents, mangio-crepe's drift of a frame,
    and medians of three frames over rests too, for dio, and for harvest where `median` is more than 2.
    Raises `ParameterError`, and what reading the weights raises.
    """

    def __init__(
        self,
        method: str,
        *,
        weights: Weights | None = None,
        device: torch.device | str = "cpu",
        threshold: float | None = None,
        crepe_hop_length: int = 128,
        unvoiced: str = "zero",
        median: int = 0,
        parity: bool = False,
    ) -> None:
        if method not in METHODS:
            raise ParameterError(f"Unknown pitch detection {method!r}.", f"Choose one of {', '.join(METHODS)}.")
        if unvoiced not in ("zero", "interpolate"):
            raise ParameterError(f"Unvoiced frames cannot be {unvoiced!r}.", "Choose `zero` or `interpolate`.")
        if not 1 <= crepe_hop_length <= 512:
            raise ParameterError(
                f"A CREPE hop length of {crepe_hop_length} samples is out of range.", "Choose 1 to 512; 128 is usual."
            )
        if not 0 <= median <= 101:
            raise ParameterError(f"A median over {median} frames is out of range.", "Choose 0 to 101; 3 is usual.")
        if METHODS[method] and weights is None:
            raise ParameterError(f"{method} needs its weights.", "Say where they are.")
        self.method, self.device, self.threshold = method, device, threshold
        self.hop, self.unvoiced, self.median, self.parity = crepe_hop_length, unvoiced, median, parity
        self._run = self._loaded(weights)

    def __call__(self, samples: NDArray[Any], rate: int = RATE) -> Array:
        """samples [N] → Hz [N//160 + 1]. Raises `AudioError` for sound that is empty, not mono or not finite."""
        sound = checked(samples, rate)
        count = len(sound) // HOP + 1
        if len(sound) < SHORTEST:
            sound = np.pad(sound, (0, SHORTEST - len(sound)))
        if not sound.any():
            return np.zeros(count, np.float32)
        f0 = self._run(sound)[:count]
        if self.median > 2 and not (self.parity and self.method == "harvest"):
            from vividcover.voice.rvc.pitch.decode import median_voiced

            f0 = median_voiced(f0, self.median)
        if self.unvoiced == "interpolate":
            from vividcover.voice.rvc.pitch.decode import fill_unvoiced

            f0 = fill_unvoiced(f0)
        return f0

    def _loaded(self, weights: Weights | None) -> Callable[[Array], Array]:
        """The method as a function, its net read."""
        if weights is None or not METHODS[self.method]:
            return self._classic()
        import torch

        path, limit = (
            weights.path(METHODS[self.method]),
            {} if self.threshold is None else {"threshold": self.threshold},
        )
        if METHODS[self.method] == "rmvpe":
            from vividcover.voice.rvc.pitch.rmvpe import Rmvpe

            rmvpe = Rmvpe.load(path, self.device)
            return lambda sound: rmvpe.f0(torch.from_numpy(sound), **limit)
        if self.method == "fcpe":
            from vividcover.voice.rvc.pitch.fcpe import Fcpe

            fcpe = Fcpe.load(path, self.device)
            return lambda sound: fcpe.f0(torch.from_numpy(sound), **limit)
        from vividcover.voice.rvc.pitch.crepe import Crepe

        crepe = Crepe.load(path, self.device)
        if self.method.startswith("mangio"):
            return lambda sound: crepe.f0_stretched(torch.from_numpy(sound), self.hop, parity=self.parity)
        return lambda sound: crepe.f0(torch.from_numpy(sound), **limit, parity=self.parity)

    def _classic(self) -> Callable[[Array], Array]:
        from vividcover.voice.rvc.pitch import classic

        if self.method == "dio":
            return lambda sound: classic.dio(sound, parity=self.parity)
        if self.method == "harvest":
            return lambda sound: classic.harvest(sound, parity_median=self.parity and self.median > 2)
        return classic.pm


def track(samples: NDArray[Any], method: str, *, rate: int = RATE, **settings: Any) -> Array:
    """The pitch of one recording: `Tracker(method, **settings)(samples, rate)`."""
    return Tracker(method, **settings)(samples, rate)


def checked(samples: NDArray[Any], rate: int = RATE) -> Array:
    """The samples as float32 [N]. Raises `AudioError` for sound that is empty, not mono, not finite, not 16 kHz."""
    if rate != RATE:
        raise AudioError(f"Pitch is found at {RATE} Hz; this sound has {rate} Hz.", f"Resample it to {RATE} Hz first.")
    sound = np.asarray(samples)
    if sound.ndim != 1:
        raise AudioError(f"Pitch is found in one channel; this sound is {list(sound.shape)}.", "Mix it to mono first.")
    if not len(sound):
        raise AudioError("There is no sound in which to find a pitch: 0 samples.", "Give a recording with sound in it.")
    sound = np.ascontiguousarray(sound, dtype=np.float32)
    if not (finite := np.isfinite(sound)).all():
        raise AudioError(
            f"{int((~finite).sum())} of {len(sound)} samples are not numbers.",
            "The recording is damaged, or a filter before this overflowed.",
        )
    return sound
