"""Published HTDemucs files become a `Net`: read without their program, loaded strictly, put into bags.

    net = load([Path("955717e8-8726e21a.th")])                         # drums, bass, other, vocals
    net = load(files, weights=BAGS["htdemucs_ft"].weights, stems=("vocals",))    # runs only what the vocals need

A file is a torch pickle of {klass, args, kwargs, state, …} (`.th`), or the same as `.safetensors` with JSON beside the
tensors, as demucs 4.1 fetches it. Both are data to us: the class named in it is a name, and never imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vividcover.errors import ModelFileError, ParameterError
from vividcover.song.separators.htdemucs import HTDemucs, HTDemucsConfig
from vividcover.song.separators.nets import TorchNet
from vividcover.song.separators.overlap import Chunks
from vividcover.tensors import Inert, check_keys, metadata_of, read_tensors

SHIFT = 0.5  # seconds, the most that the published program moves a song by
# What every published HTDemucs has in common, and our network takes for granted.
FIXED: dict[str, Any] = {
    "cac": True, "rewrite": True, "context_enc": 0, "t_emb": "sin", "t_norm_in": True, "t_norm_in_group": False,
    "t_group_norm": False, "t_norm_first": True, "t_norm_out": True, "t_layer_scale": True, "t_gelu": True,
    "t_sparse_self_attn": False, "t_sparse_cross_attn": False,
}  # fmt: skip
CHANGES_NOTHING = {  # of the values in a file: about training, or about parts that FIXED rules out
    "channels_time", "wiener_iters", "end_iters", "wiener_residual", "time_stride", "multi_freqs", "multi_freqs_depth",
    "emb_smooth", "norm_starts", "norm_groups", "dconv_init", "t_dropout", "t_max_positions", "t_weight_decay", "t_lr",
    "t_sin_random_shift", "t_cape_mean_normalize", "t_cape_augment", "t_cape_glob_loc_scale", "t_mask_type",
    "t_mask_random_seed", "t_sparse_attn_window", "t_global_window", "t_sparsity", "t_auto_sparsity", "rescale",
    "use_train_segment",
}  # fmt: skip
SIZES = {  # what a file may ask for: key → from, to
    "channels": (4, 1024), "growth": (1, 4), "depth": (1, 8), "nfft": (256, 65_536), "kernel_size": (4, 64),
    "stride": (2, 16), "audio_channels": (2, 2), "dconv_depth": (0, 8), "dconv_comp": (1, 64), "t_layers": (0, 64),
    "t_heads": (1, 64), "t_hidden_scale": (0.25, 16), "t_max_period": (1, 1e9), "emb_scale": (0, 1000),
    "samplerate": (8000, 192_000), "bottom_channels": (0, 8192), "dconv_mode": (0, 3), "context": (0, 16),
}  # fmt: skip


@dataclass(frozen=True)
class Bag:
    """Nets that answer together. `files`: names of weights; `weights[n][s]`: net n's share in stem s (None: all)."""

    files: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...] | None = None


FINE = ("htdemucs_ft_drums", "htdemucs_ft_bass", "htdemucs_ft_other", "htdemucs_ft_vocals")
BAGS = {
    "htdemucs": Bag(("htdemucs",)),
    "htdemucs_6s": Bag(("htdemucs_6s",)),
    "htdemucs_ft": Bag(FINE, tuple(tuple(float(net == stem) for stem in range(4)) for net in range(4))),
}


def load(
    files: Sequence[Path],
    weights: Sequence[Sequence[float]] | None = None,
    stems: Sequence[str] = (),
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    overlap: float = 0.25,
    shift: int | None = None,
    batch: int = 0,
) -> TorchNet:
    """A `Net` of one file, or of several with `weights[net][stem]`; `stems` limits what it answers (default: all).

    Nets without a share in the wanted stems are not even read. `overlap` is the share of a chunk that the next one
    sees again. `shift` (samples up to half a second: the published program's random offset) moves the grid of chunks;
    None: not moved. `batch`: chunks at a time, 0: one on a CPU, four on a GPU.

    Raises `ModelFileError`, `ParameterError`.
    """
    first = read(files[0])
    sources = first.config.sources
    wanted = tuple(stems) or sources
    if missing := [stem for stem in wanted if stem not in sources]:
        raise ParameterError(f"{files[0].name} has no stem {missing[0]!r}.", f"Choose among {', '.join(sources)}.")
    table = torch.tensor([[1.0] * len(sources)] * len(files) if weights is None else weights, dtype=torch.float32)
    if table.shape != (len(files), len(sources)):
        raise ParameterError(
            f"Weights of {tuple(table.shape)} for {len(files)} nets and {len(sources)} stems.",
            "Give one per net and stem.",
        )
    rows = [sources.index(stem) for stem in wanted]
    shares = (table / table.sum(dim=0).clamp_min(1e-8))[:, rows]  # [nets, wanted stems]
    used = [number for number in range(len(files)) if bool(shares[number].any())]
    nets = [first if number == 0 else read(files[number]) for number in used]
    for number, net in zip(used, nets, strict=True):
        if net.config.sources != sources or net.config.samples != first.config.samples:
            raise ModelFileError(
                f"{files[number].name} separates {', '.join(net.config.sources)} in pieces of {net.config.samples} "
                f"samples, {files[0].name} something else.",
                "Put only files of one bag together.",
            )
        net.to(device)
        net.dtype = dtype

    def answer(mix: Tensor) -> Tensor:
        return sum_of(net(mix)[:, rows] * share[:, None, None] for net, share in zip(nets, shares[used].to(device)))

    def sum_of(parts: Any) -> Tensor:
        total: Tensor = next(parts)
        for part in parts:
            total = total + part
        return total

    config = first.config
    layers = [layer for net in nets for layer in (*net.encoder, *net.tencoder, *net.decoder, *net.tdecoder)]
    layers += [layer for net in nets if config.t_layers for layer in net.crosstransformer.layers]
    batch = batch or (1 if torch.device(device).type == "cpu" else 4)
    return TorchNet(
        answer, layers, stems=wanted, rate=config.samplerate, level="standard", device=device, dtype=dtype,
        autocast=False, chunks=chunks(config, overlap, shift, batch),
    )  # fmt: skip


def chunks(config: HTDemucsConfig, overlap: float = 0.25, shift: int | None = None, batch: int = 1) -> Chunks:
    """The published cutting: triangles, a grid from the song's start or up to half a second before it."""
    if not 0 <= overlap < 1:
        raise ParameterError(f"An overlap of {overlap} is not below 1.", "Choose 0 to 0.9; 0.25 is usual.")
    most = int(SHIFT * config.samplerate)
    if shift is not None and not 0 <= shift <= most:
        raise ParameterError(f"A shift of {shift} samples.", f"Choose 0 to {most}.")
    lead = 0 if shift is None else most - shift
    step = int((1 - overlap) * config.samples)
    return Chunks(config.samples, step, "triangle", lead=lead, batch=batch, every=True, last="centred")


# --- files ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> HTDemucs:
    """The network of one published file, on the CPU in float32, ready to answer. Raises `ModelFileError`."""
    found = _package(path)
    net = build(config_of(found["args"], found["kwargs"], path.name))
    state = found["state"]
    if not isinstance(state, Mapping) or state.get("__quantized"):
        raise ModelFileError(
            f"{path.name} holds quantized weights, which are not served.",
            "Take the model's full version (without `_q`).",
        )
    check_keys(net, {name: value.float() for name, value in state.items()}, path.name, assign=True)
    return net.eval().requires_grad_(False)


def build(config: HTDemucsConfig) -> HTDemucs:
    """The network without memory for its weights: they come with the file."""
    with torch.device("meta"):
        return HTDemucs(config)


def config_of(args: Sequence[Any], kwargs: Mapping[str, Any], name: str = "the file") -> HTDemucsConfig:
    """The published arguments as ours. Raises `ModelFileError` for one that our network does not have."""
    given = dict(kwargs) | ({"sources": args[0]} if args else {})
    known = {field.name for field in fields(HTDemucsConfig)}
    for key, value in given.items():
        other = key in FIXED and value != FIXED[key]
        if other or key not in known | FIXED.keys() | CHANGES_NOTHING:
            raise _unserved(name, f"{key} = {value!r}")
    if given.get("multi_freqs") or given.get("wiener_iters") or given.get("channels_time"):
        raise _unserved(name, "bands of their own, Wiener filters or a time branch of its own width")
    sources, segment = given.get("sources"), _fraction(given.get("segment", 10))
    if not isinstance(sources, Sequence) or isinstance(sources, str) or not 0 < len(sources) <= 32 or segment is None:
        raise _unserved(name, f"sources {sources!r} and segments of {given.get('segment')!r} s")
    values = {key: value for key, value in given.items() if key in known - {"sources", "segment"}}
    for key, value in values.items():
        low, high = SIZES.get(key, (0, 100_000))
        kind = int if isinstance(getattr(HTDemucsConfig, key), int) else int | float
        if not isinstance(value, kind) or not low <= value <= high:
            raise _unserved(name, f"{key} = {value!r}")
    config = HTDemucsConfig(sources=tuple(str(source) for source in sources), segment=segment, **values)
    deepest = config.nfft // 2 // config.stride ** (config.depth - 1)
    if given.get("norm_starts", 4) < config.depth or deepest <= config.kernel_size or config.samples < 3 * config.nfft:
        raise _unserved(name, f"depth {config.depth} with nfft {config.nfft} and norms")
    if (config.bottom_channels or config.widths[-1]) % (4 * config.t_heads):
        raise _unserved(name, f"{config.t_heads} heads for {config.bottom_channels or config.widths[-1]} channels")
    return config


def _unserved(name: str, what: str) -> ModelFileError:
    return ModelFileError(
        f"{name} is a Demucs with {what}, which is not served.",
        "Use htdemucs, htdemucs_ft, htdemucs_6s, or one trained like them.",
    )


def _fraction(value: Any) -> Fraction | None:
    """Seconds, up to a minute; the restricted reader keeps a pickled fraction's own arguments."""
    try:
        found = Fraction(*value.args) if isinstance(value, Inert) else Fraction(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return found if 0 < found <= 60 else None


def _package(path: Path) -> dict[str, Any]:
    """{klass, args, kwargs, state} of either kind of file."""
    found = read_tensors(path)
    meta = metadata_of(path) if path.suffix == ".safetensors" else {}
    if "klass" in meta and "structure" not in meta:
        values = {key: _from_json(json.loads(meta[key])) for key in ("args", "kwargs")}
        return {"klass": meta["klass"], **values, "state": found}
    klass = getattr(found.get("klass"), "__name__", "")
    if klass != "HTDemucs" or not isinstance(found.get("kwargs"), Mapping):
        what = f"of the older kind {klass}" if klass else "not an HTDemucs file: no {klass, kwargs, state} in it"
        raise ModelFileError(
            f"{path.name} is {what}.", "Take one of demucs's `.th` or `.safetensors` files of the hybrid transformer."
        )
    return {"args": (), **found}


def _from_json(value: Any) -> Any:
    """demucs writes a fraction as {"_type": "fraction", "numerator": …, "denominator": …}."""
    if isinstance(value, dict):
        if value.get("_type") == "fraction":
            return Fraction(int(value["numerator"]), int(value["denominator"]))
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value
