"""The separators that the program knows by name: what each takes apart, its weights, and how to load it.

`score` is the median SDR in dB of what it answers, as audio-separator's authors measured it (`models-scores.json`; of
the net that takes the room off: its author's; 0: none is published). `slow` ones take more than ten times the song's
length on a few cores and want a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vividcover.errors import EngineError, ParameterError
from vividcover.song.separators.contract import NetSeparator, Separator
from vividcover.song.separators.mdx import Mode

Stage = Literal["vocals", "karaoke", "dereverb"]
Files = Callable[[str], Path]  # name of weights -> file; raises `WeightsError`
PARTS: Mapping[Stage, tuple[str, str]] = MappingProxyType(  # what is wanted, and what is left of the input
    {"vocals": ("vocals", "instrumental"), "karaoke": ("main", "backing"), "dereverb": ("dry", "room")}
)


@dataclass(frozen=True)
class Known:
    """`config` names the numbers in the kind's own table; `answers` is the net's stem that is taken, which is the
    stage's first part, or with `inverse` its second."""

    name: str
    stage: Stage
    kind: Literal["mdx", "demucs", "roformer"]
    weights: str
    config: str
    answers: str
    score: float
    slow: bool = False
    inverse: bool = False

    @property
    def needs(self) -> str:
        """The package that it needs."""
        return "onnxruntime" if self.kind == "mdx" else "torch"


def _table() -> dict[str, Known]:
    """What the stage takes of the net, and how well it does it."""
    mdx, roformer = "mdx", "roformer"
    rows: list[tuple[str, Stage, Any, str, str, float]] = [
        ("mel_band_roformer_vocals", "vocals", roformer, "vocals-mel", "vocals", 12.60),
        ("bs_roformer_368", "vocals", roformer, "vocals-bs-368", "vocals", 12.10),
        ("bs_roformer_317", "vocals", roformer, "vocals-bs-317", "vocals", 11.77),
        ("htdemucs_ft", "vocals", "demucs", "", "vocals", 10.79),
        ("uvr_mdx_voc_ft", "vocals", mdx, "uvr_mdx_voc_ft", "stem", 10.15),
        ("htdemucs", "vocals", "demucs", "", "vocals", 9.87),
        ("mel_band_roformer_karaoke", "karaoke", roformer, "karaoke-mel", "karaoke", 8.45),
        ("uvr_mdx_kara_2", "karaoke", mdx, "uvr_mdx_kara_2", "stem", 5.43),
        ("mel_band_roformer_dereverb", "dereverb", roformer, "dereverb-mel", "noreverb", 19.17),
        ("uvr_mdx_reverb_hq", "dereverb", mdx, "uvr_mdx_reverb_hq", "stem", 0.0),
    ]
    weights = {"htdemucs_ft": "htdemucs_ft_vocals"}  # of the four, the one that answers vocals
    inverse = ("uvr_mdx_kara_2", "uvr_mdx_reverb_hq")
    return {
        name: Known(
            name, stage, kind, weights.get(name, name), config, answers, score, kind == roformer, name in inverse
        )
        for name, stage, kind, config, answers, score in rows
    }


KNOWN: Mapping[str, Known] = MappingProxyType(_table())


def known(name: str, stage: Stage) -> Known:
    """A separator by name. Raises `ParameterError` that lists those of the stage."""
    found = KNOWN.get(name)
    if found is None or found.stage != stage:
        names = ", ".join(k.name for k in KNOWN.values() if k.stage == stage)
        raise ParameterError(f"There is no separator {name!r} for {stage}.", f"Choose auto, or one of: {names}.")
    return found


def ranked(stage: Stage, gpu: bool) -> list[Known]:
    """Separators of a stage, best first; where there is no GPU, those that need one come last."""
    return sorted((k for k in KNOWN.values() if k.stage == stage), key=lambda k: (k.slow and not gpu, -k.score))


def serves(wanted: Known, device: str) -> bool:
    """Whether what a separator needs is installed, and can compute on a device that was asked for by name."""
    if importlib.util.find_spec(wanted.needs) is None:
        return False
    if wanted.kind == "mdx" and device.startswith("cuda"):
        from vividcover.song.separators import mdx

        try:
            return mdx.on_gpu(device)
        except EngineError:
            return False
    return True


def load(
    wanted: Known,
    files: Files,
    *,
    mode: Mode = "overlap",
    denoise: bool = False,
    device: str = "auto",
    threads: int = 0,
) -> Separator:
    """The separator with its weights in place; it writes both parts of its stage, `PARTS[stage]`.

    Raises `EngineError` (a package or device is missing), `WeightsError`, `ModelFileError`, `ParameterError`.
    """
    file = files(wanted.weights)
    first, second = PARTS[wanted.stage]
    if wanted.kind == "mdx":
        from vividcover.song.separators import mdx

        net = mdx.MdxNet(file, mdx.MODELS[wanted.config], denoise=denoise, device=device, threads=threads)
        primary, rest = (second, first) if wanted.inverse else (first, second)
        return mdx.MdxSeparator(wanted.name, net, primary, rest, mode)
    from vividcover import tensors

    tensors.require()
    place = tensors.pick_device(device)
    dtype = tensors.pick_dtype(place)
    if threads:
        tensors.use_threads(threads)
    if wanted.kind == "demucs":
        from vividcover.song.separators import demucs

        answering = demucs.load([file], stems=[wanted.answers], device=place, dtype=dtype)
    else:
        from vividcover.song.separators import roformer_files

        config = roformer_files.KNOWN[wanted.config]
        answering = roformer_files.load(file, config, device=place, dtype=dtype)
    return NetSeparator(wanted.name, answering, {wanted.answers: first}, second)
