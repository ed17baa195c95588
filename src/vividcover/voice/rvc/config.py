"""The numbers of an RVC voice: one frozen record for each published (version, rate), and the small twin for a CPU.

    CONFIGS["v2", 48000]           # as published
    tiny("v2", 48000)              # the same topology with few channels: tests, and learning without a GPU
    RvcConfig.from_list(checkpoint["config"], "v2")

Source of the numbers: the configuration files of RVC-Project (MIT); 24 kHz: Applio (MIT).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, cast

from vividcover.errors import ModelFileError, ParameterError

Version = Literal["v1", "v2"]
FEATURES: Mapping[str, int] = MappingProxyType({"v1": 256, "v2": 768})  # what ContentVec gives: layer 9 | layer 12
FRAME_RATE = 100  # frames a second of everything between the features and the vocoder


@dataclass(frozen=True, slots=True)
class RvcConfig:
    """Everything that decides the shapes of a voice's tensors. Sizes are channels unless said otherwise."""

    version: Version
    rate: int  # Hz of the audio that comes out
    n_fft: int  # samples; the window is as long
    mels: int  # bands of the mel spectrogram that training compares
    segment: int  # samples of audio that one training step sees of a clip
    upsample_rates: tuple[int, ...]  # their product is `hop`
    upsample_kernels: tuple[int, ...]
    inter: int = 192  # the latent z
    hidden: int = 192
    filter: int = 768  # inside the text encoder's feed-forward layers
    heads: int = 2
    layers: int = 6  # of the text encoder
    kernel: int = 3  # of the feed-forward convolutions
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    upsample_initial: int = 512  # halves at every stage of the vocoder
    speakers: int = 109
    gin: int = 256  # of the speaker embedding
    critic: int = 1024  # the widest layer of the discriminators; not part of a published file

    @property
    def features(self) -> int:
        return FEATURES[self.version]

    @property
    def hop(self) -> int:
        """Samples of audio per frame."""
        return math.prod(self.upsample_rates)

    @property
    def margin(self) -> int:
        """Frames on either side of a piece beyond which nothing reaches its samples in the vocoder: 11 to 14."""
        reach, steps = 3.0, 1  # in frames: the first convolution's; steps per frame at the resolution so far
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            steps *= rate
            trim = (kernel - rate) // 2
            blocks = max(
                (k - 1) // 2 * (sum(d) + len(d)) for k, d in zip(self.resblock_kernels, self.resblock_dilations)
            )
            reach += (kernel - 1 - trim + blocks) / steps
        return math.ceil(reach + 3 / steps)

    @property
    def spec_channels(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def segment_frames(self) -> int:
        return self.segment // self.hop

    def to_list(self) -> list[Any]:
        """The 18 entries of a published checkpoint's `config`, in their order."""
        return [
            self.spec_channels, 32, self.inter, self.hidden, self.filter, self.heads, self.layers, self.kernel, 0, "1",
            list(self.resblock_kernels), [list(d) for d in self.resblock_dilations], list(self.upsample_rates),
            self.upsample_initial, list(self.upsample_kernels), self.speakers, self.gin, self.rate,
        ]  # fmt: skip

    @classmethod
    def from_list(cls, entries: Sequence[Any], version: str) -> RvcConfig:
        """From a checkpoint's `config` and `version`. Raises `ModelFileError` if it is not such a list."""
        if version not in FEATURES:
            raise ModelFileError(
                f"This voice is of RVC version {version!r}, which is not known.", "Versions v1 and v2 can be read."
            )
        try:
            (
                spec, _frames, inter, hidden, filter_, heads, layers, kernel, _dropout, resblock,
                kernels, dilations, rates, initial, up_kernels, speakers, gin, rate,
            ) = entries  # fmt: skip
            rates, up_kernels = tuple(map(int, rates)), tuple(map(int, up_kernels))
            rate = _hertz(rate)
            base = CONFIGS.get((cast(Version, version), rate))  # for what the list does not say
            config = cls(
                version=cast(Version, version), rate=rate, n_fft=2 * (int(spec) - 1), mels=base.mels if base else 128,
                segment=base.segment if base else 36 * math.prod(rates), upsample_rates=rates,
                upsample_kernels=up_kernels, inter=int(inter), hidden=int(hidden), filter=int(filter_),
                heads=int(heads), layers=int(layers), kernel=int(kernel), resblock_kernels=tuple(map(int, kernels)),
                resblock_dilations=tuple(tuple(map(int, d)) for d in dilations), upsample_initial=int(initial),
                speakers=int(speakers), gin=int(gin),
            )  # fmt: skip
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(
                "The `config` of this voice is not the list of 18 entries that RVC writes.",
                "The file is damaged, or is not an RVC voice: get it again from where it came from.",
            ) from error
        config.check(str(resblock))
        return config

    def check(self, resblock: str = "1") -> None:
        """Raises `ModelFileError` where the numbers do not fit each other or are out of all reason."""
        ups = list(zip(self.upsample_rates, self.upsample_kernels, strict=False))
        sizes = (
            self.inter, self.hidden, self.filter, self.upsample_initial, self.gin, self.n_fft, self.kernel,
            *self.upsample_rates, *self.upsample_kernels, *self.resblock_kernels, *sum(self.resblock_dilations, ()),
        )  # fmt: skip
        rules = {
            "its vocoder's blocks are of an unknown kind": resblock != "1",
            f"a frame of {self.hop} samples at {self.rate} Hz is not 10 ms": self.hop * FRAME_RATE != self.rate,
            "upsampling rates and kernels differ in number": len(self.upsample_kernels) != len(self.upsample_rates),
            "a size is not between 1 and 4096": not all(1 <= size <= 4096 for size in sizes),
            "an upsampling kernel does not suit its rate": any(k < rate or (k - rate) % 2 for rate, k in ups),
            "the vocoder's blocks are not described fully": not self.resblock_kernels
            or len(self.resblock_kernels) != len(self.resblock_dilations),
            "a kernel is even": not all(k % 2 for k in (*self.resblock_kernels, self.kernel)),
            "its channels cannot be halved": bool(
                self.inter % 2 or not self.upsample_initial >> len(self.upsample_rates)
            ),
            "its channels cannot be split over its heads": self.heads < 1 or bool(self.hidden % self.heads),
            "it has too many speakers or layers": not (1 <= self.speakers <= 100_000 and 1 <= self.layers <= 64),
        }
        if wrong := [rule for rule, broken in rules.items() if broken]:
            raise ModelFileError(
                f"The `config` of this voice does not fit together: {wrong[0]}.",
                "It was made by a program that changed the network; only the published networks can be used.",
            )


def _hertz(rate: Any) -> int:
    """48000, "48000", "48k"."""
    text = str(rate).strip().lower()
    return int(float(text[:-1]) * 1000) if text.endswith("k") else int(float(text))


def _published(
    rate: int, n_fft: int, mels: int, segment: int, rates: tuple[int, ...], kernels: tuple[int, ...],
    versions: tuple[Version, ...] = ("v1", "v2"),
) -> dict[tuple[Version, int], RvcConfig]:  # fmt: skip
    return {(v, rate): RvcConfig(v, rate, n_fft, mels, segment, rates, kernels) for v in versions}


CONFIGS: Mapping[tuple[Version, int], RvcConfig] = MappingProxyType(
    _published(24000, 1024, 80, 8640, (10, 6, 2, 2), (20, 12, 4, 4), ("v2",))
    | _published(32000, 1024, 80, 12800, (10, 4, 2, 2, 2), (16, 16, 4, 4, 4), ("v1",))
    | _published(32000, 1024, 80, 12800, (10, 8, 2, 2), (20, 16, 4, 4), ("v2",))
    | _published(40000, 2048, 125, 12800, (10, 10, 2, 2), (16, 16, 4, 4))
    | _published(48000, 2048, 128, 11520, (10, 6, 2, 2, 2), (16, 16, 4, 4, 4), ("v1",))
    | _published(48000, 2048, 128, 17280, (12, 10, 2, 2), (24, 20, 4, 4), ("v2",))
)


def config_of(version: str, rate: int | str) -> RvcConfig:
    """The published configuration. Raises `ParameterError` for one that does not exist."""
    for (known_version, known_rate), config in CONFIGS.items():
        if (known_version, known_rate) == (version, _hertz(rate)):
            return config
    known = ", ".join(f"{v} {r // 1000}k" for v, r in CONFIGS)
    raise ParameterError(f"There is no RVC voice of version {version!r} at {rate}.", f"Choose one of {known}.")


def tiny(version: str = "v2", rate: int | str = 48000) -> RvcConfig:
    """The same topology with few channels (about 1/60 of the weights): for tests and for learning on a CPU."""
    return replace(
        config_of(version, rate), inter=32, hidden=32, filter=64, layers=2, upsample_initial=64, speakers=4, gin=16,
        critic=64,
    )  # fmt: skip
