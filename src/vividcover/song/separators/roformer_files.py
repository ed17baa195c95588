"""Published RoFormer files become a `Net`: a `.ckpt` of weights, and the numbers that its `.yaml` holds.

    net = load(Path("MelBandRoformer.ckpt"), KNOWN["vocals-mel"])
    net = load(Path("mine.ckpt"), read_config(Path("mine.yaml")))       # anybody's, of the same two architectures

The numbers of the files that most people use stand here, so that one file suffices.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.song.separators.nets import TorchNet
from vividcover.song.separators.overlap import Chunks
from vividcover.song.separators.roformer import BANDS, Roformer, RoformerConfig, mel_coverage
from vividcover.tensors import check_keys, read_tensors

VOCALS = ("vocals", "other")
ROOM = ("noreverb", "reverb")
_MEL = RoformerConfig(VOCALS, "vocals", mel_bands=60)
_BS = RoformerConfig(VOCALS, "vocals", bands=BANDS, dim=512, depth=12)
# name of ours → the numbers of the published yaml; the comment names the published file
KNOWN = {
    "vocals-mel": _MEL,  # MelBandRoformer.ckpt, by Kimberley Jensen
    "vocals-bs-317": _BS,  # model_bs_roformer_ep_317_sdr_12.9755.ckpt, by viperx
    "vocals-bs-368": replace(_BS, stems=("vocals", "instrumental")),  # model_bs_roformer_ep_368_sdr_12.9628.ckpt
    "karaoke-mel": replace(_MEL, stems=("karaoke", "other"), target="karaoke"),
    # ^ mel_band_roformer_karaoke_aufr33_viperx_sdr_10.1956.ckpt: the main voice, of a song or of its vocals
    "dereverb-mel": replace(_MEL, stems=ROOM, target="noreverb"),
    # ^ dereverb_mel_band_roformer_anvuew_sdr_19.1729.ckpt, and its less aggressive twin
    "dereverb-bs": RoformerConfig(ROOM, "noreverb", bands=BANDS, depth=10, hop=512, chunk=352_768),
    # ^ deverb_bs_roformer_8_384dim_10depth.ckpt, by anvuew
    "denoise-mel": replace(_MEL, stems=("dry", "other"), target="dry"),
    # ^ denoise_mel_band_roformer_aufr33_sdr_27.9959.ckpt
}
LATER = {  # what newer RoFormers may have in their yaml and ours has not: key → the value that means "without"
    "linear_transformer_depth": 0, "skip_connection": False, "stft_normalized": False, "add_value_residual": False,
    "num_residual_streams": 1, "num_residual_fracs": 1, "use_pope": False, "learned_value_residual_mix": False,
}  # fmt: skip
MOST_SAMPLES = 60 * 192_000  # that a net may see at once


def load(
    file: Path,
    config: RoformerConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    overlaps: int = 2,
    batch: int = 0,
) -> TorchNet:
    """A `Net` that answers `config.answers`. Each sample is in `overlaps` chunks (1: they do not overlap).

    `batch`: chunks at a time, 0: one on a CPU, four on a GPU. Raises `ModelFileError`, `ParameterError`.
    """
    if not 1 <= overlaps <= 16:
        raise ParameterError(f"{overlaps} overlaps.", "Choose 1 to 16; 2 is usual.")
    net = read(file, config).to(device)
    layers = [transformer for pair in net.layers for transformer in pair.children()]
    batch = batch or (1 if torch.device(device).type == "cpu" else 4)
    window: Any = "flat" if overlaps == 1 else "hann"
    return TorchNet(
        net, layers, stems=config.answers, rate=config.rate, device=device, dtype=dtype,
        chunks=Chunks(config.chunk, config.chunk // overlaps, window, batch=batch),
    )  # fmt: skip


def read(file: Path, config: RoformerConfig) -> Roformer:
    """The network of one file, on the CPU in float32, ready to answer. Raises `ModelFileError`."""
    found = read_tensors(file)
    for box in ("state_dict", "model", "state", "ema"):  # some trainers pack the weights into a box
        if isinstance(found.get(box), Mapping):
            found = dict(found[box])
            break
    state = {str(name).removeprefix("module."): value for name, value in found.items()}
    if foreign := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise ModelFileError(
            f"{file.name} is not a RoFormer's weights: `{foreign[0]}` in it is no tensor.", "Take the published .ckpt."
        )
    net = build(config)
    check_keys(net, {name: value.float() for name, value in state.items()}, file.name, assign=True)
    return net.eval().requires_grad_(False)


def build(config: RoformerConfig) -> Roformer:
    """The network without memory for its weights: they come with the file."""
    with torch.device("meta"):
        return Roformer(config)


# --- other people's files ------------------------------------------------------------------------------------------


def read_config(path: Path) -> RoformerConfig:
    """The numbers of a `.yaml` that stands beside a published `.ckpt`. Raises `ModelFileError`; needs PyYAML."""
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise EngineError(
            "Reading a separator's .yaml needs PyYAML.", "Install it with `pip install pyyaml`."
        ) from error
    loader: Any = type("Loader", (yaml.SafeLoader,), {})  # values only; published files spell lists as Python tuples
    loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda own, node: list(own.construct_sequence(node)))
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(
            f"{path.name} cannot be read as a separator's settings: {str(error).splitlines()[0]}.",
            "Take the .yaml that was published with the .ckpt.",
        ) from error
    except OSError as error:
        raise ModelFileError(f"There is no readable file {path}.", "Check the path.") from error
    return config_of(found, path.name)


def config_of(found: Any, name: str = "the file") -> RoformerConfig:
    """The numbers of such a file, parsed. Raises `ModelFileError` that names what is missing or not served."""
    parts = ("audio", "model", "training")
    if not isinstance(found, Mapping) or not all(isinstance(found.get(part), Mapping) for part in parts):
        raise _unreadable(name, "it has no parts audio, model and training")
    audio, model, training = (found[part] for part in parts)
    if later := [key for key, without in LATER.items() if model.get(key, without) not in (without, None)]:
        raise _unreadable(name, f"it has {later[0]} = {model[later[0]]!r}, which is not served")
    try:
        config = RoformerConfig(
            stems=tuple(str(stem) for stem in training["instruments"]),
            target=str(training.get("target_instrument") or ""),
            bands=tuple(int(bins) for bins in model.get("freqs_per_bands", ())),
            mel_bands=int(model.get("num_bands", 0)),
            dim=int(model["dim"]), depth=int(model["depth"]),
            time_depth=int(model.get("time_transformer_depth", 2)),
            freq_depth=int(model.get("freq_transformer_depth", 2)),
            heads=int(model.get("heads", 8)), dim_head=int(model.get("dim_head", 64)),
            mask_depth=int(model.get("mask_estimator_depth", 1 if "num_bands" in model else 2)),
            mask_expansion=int(model.get("mlp_expansion_factor", 4)),
            n_fft=int(model.get("stft_n_fft", 2048)), hop=int(model.get("stft_hop_length", 512)),
            channels=2 if model.get("stereo") else 1, rate=int(audio.get("sample_rate", 44_100)),
            chunk=int(audio["chunk_size"]), zero_dc=bool(model.get("zero_dc", False)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(name, f"{error} is missing or no number") from error
    _check(config, model, name)
    return config


def _check(config: RoformerConfig, model: Mapping[str, Any], name: str) -> None:
    if config.mel == bool(config.bands):
        raise _unreadable(name, "it has neither num_bands (Mel) nor freqs_per_bands (BS)")
    if config.bands and sum(config.bands) != config.n_fft // 2 + 1:
        raise _unreadable(name, f"its bands cover {sum(config.bands)} of {config.n_fft // 2 + 1} bins")
    if config.channels != 2:
        raise _unreadable(name, "it is for one channel, which is not served")
    if model.get("stft_win_length", config.n_fft) != config.n_fft:
        raise _unreadable(name, f"its window of {model['stft_win_length']} is not its n_fft {config.n_fft}")
    if config.target and config.target not in config.stems:
        raise _unreadable(name, f"its target {config.target!r} is not among {', '.join(config.stems)}")
    sizes = (config.dim, config.depth, config.heads, config.dim_head, config.hop, config.rate, config.mask_depth)
    odd = config.dim_head % 2 or not 64 <= config.n_fft <= config.chunk or config.hop > config.n_fft // 2
    if (
        odd
        or min(sizes) < 1
        or config.dim > 8192
        or config.depth > 100
        or config.chunk > MOST_SAMPLES
        or not 0 <= config.mel_bands <= config.n_fft
    ):
        raise _unreadable(name, "one of its sizes is out of range")
    if config.mel:
        covered = mel_coverage(config.mel_bands, config.n_fft, config.rate)
        if not (covered.any(axis=0).all() and covered.any(axis=1).all()):
            raise _unreadable(name, f"its {config.mel_bands} mel bands do not fit its {config.n_fft // 2 + 1} bins")


def _unreadable(name: str, why: str) -> ModelFileError:
    return ModelFileError(
        f"{name} does not describe a RoFormer that can be run here: {why}.",
        "Take the .yaml that was published with the .ckpt, of a BS-RoFormer or a Mel-Band RoFormer.",
    )
