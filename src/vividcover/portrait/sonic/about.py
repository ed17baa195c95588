"""Sonic in a list of renderers (`portrait/renderers.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vividcover.portrait.renderers import About, Means
from vividcover.portrait.sonic.config import SonicOptions, options_of
from vividcover.weights import licence_of_portrait

if TYPE_CHECKING:
    from vividcover.portrait.render import Renderer

OPTIONS = {
    "mode": "exact: the published algorithm; fast: fewer and cheaper steps",
    "speedups": "names of single speed-ups, with mode fast: schedule, guidance, features, silence, fp8",
    "steps": "of diffusion; 25, or 10 with the speed-up schedule",
    "straight": "windows end where the song does, instead of wrapping round to its beginning",
    "smooth_decoding": "pieces of the autoencoder overlap",
    "smooth_listening": "pieces of sound that whisper hears overlap",
    "idle": "quiet movement of its own where nobody sings",
    "preview_every": "steps between two previews; 0: none",
    "windows_at_once": "0: as many as fit into memory",
    "processes": "that share the work, one for each GPU",
    "compile": "the network is compiled before the first step",
}

ABOUT = About(
    "sonic",
    "A diffusion network draws the whole head singing; hours on a CPU, minutes on a GPU.",
    "neural",
    nets=(
        "sonic-unet", "sonic-audio2token", "sonic-audio2bucket", "svd-xt", "whisper-tiny", "rife",
        "face_detection_short_range", "face_landmark",
    ),
    licence=licence_of_portrait().name,
    commercial=licence_of_portrait().commercial,
    wants_gpu=True,
    options=OPTIONS,
    ignores={"fps": "the network draws 12.5 frames a second, and interpolation makes 25", "beat": "it hears no music"},
    keeps=("keep_resolution", "paste_back", "smooth_decoding", "preview_every", "processes"),
)  # fmt: skip


def check(options: Mapping[str, Any]) -> None:
    """Raises `ParameterError` for a value that Sonic refuses."""
    _chosen(options)


def open_renderer(means: Means) -> Renderer:
    from vividcover import tensors
    from vividcover.files import stamp
    from vividcover.portrait.sonic.files import sonic_files
    from vividcover.portrait.sonic.opening import open_sonic
    from vividcover.portrait.sonic.renderer import SonicRenderer
    from vividcover.portrait.sonic.speed import check_on, gains_in_8_bits

    options = _chosen(means.options, means.dtype)
    if means.threads:
        tensors.use_threads(means.threads)
    device = tensors.pick_device(means.device)
    check_on(options, device)
    quick = "fp8" in options.speedups and gains_in_8_bits(device)
    files, quantise = sonic_files(means.weights), "fp8" if quick else None
    same = (files, [stamp(path) for path in asdict(files).values()], means.device, means.dtype, quantise)
    found = means.loaded.get(ABOUT.name)
    if found is None or found[0] != same:
        means.loaded.pop(ABOUT.name, None)  # before the next ones come
        sonic = open_sonic(files, device=means.device, dtype=means.dtype, quantise="fp8" if quantise else None)
        found = means.loaded[ABOUT.name] = same, sonic
    return SonicRenderer(found[1], means.kit, options, means.work)


def _chosen(options: Mapping[str, Any], dtype: str = "auto") -> SonicOptions:
    return options_of(options.get("mode", "exact"), dtype=dtype, **{k: v for k, v in options.items() if k != "mode"})
