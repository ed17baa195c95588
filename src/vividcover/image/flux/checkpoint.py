"""Published weights of FLUX.1's transformer into our network, and out again.

    flux = read_flux(Path("flux1-dev.safetensors"), device=device, dtype=torch.bfloat16)
    state = published(flux)                                     # {name in diffusers: tensor}

Read are: a diffusers folder (`transformer/` with its config.json, in one file or several), and one file as Black Forest
Labs publish it, also with ComfyUI's prefix, with or without text encoders and autoencoder beside it, and in 8 bits with
or without a scale for each layer. Tensors go one by one from the file to where they stay: never twice in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from vividcover.errors import ModelFileError
from vividcover.image.flux.config import FluxConfig, from_published, targets
from vividcover.image.flux.network import Flux
from vividcover.tensors import check_shapes, write_tensors

BFL, DIFFUSERS = "img_in.weight", "x_embedder.weight"  # a name that tells the two spellings apart
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
BESIDE = ("text_encoders.", "conditioner.", "cond_stage_model.", "vae.", "first_stage_model.")  # in ComfyUI's files
SCALED = ("weight_scale", "scale_weight")  # what 8-bit weights are multiplied by, in two spellings
UNUSED = (".input_scale", ".scale_input", ".comfy_quant", "scaled_fp8")  # how activations were rounded, and marks
EMBEDDERS = {
    "time_in.first": "time_in.in_layer", "time_in.second": "time_in.out_layer",
    "vector_in.first": "vector_in.in_layer", "vector_in.second": "vector_in.out_layer",
    "guidance_in.first": "guidance_in.in_layer", "guidance_in.second": "guidance_in.out_layer",
    "final_mod": "final_layer.adaLN_modulation.1", "final_out": "final_layer.linear",
}  # fmt: skip
STREAM = {
    "mod": "mod.lin", "qkv": "attn.qkv", "proj": "attn.proj", "mlp_in": "mlp.0", "mlp_out": "mlp.2",
    "q_norm": "attn.norm.query_norm", "k_norm": "attn.norm.key_norm",
}  # fmt: skip
SINGLE = {"mod": "modulation.lin", "q_norm": "norm.query_norm", "k_norm": "norm.key_norm"}
OTHERS = (  # what a file is that is no transformer of FLUX.1, by a piece of one of its names
    (r"lora_|\.lora\.|lokr_|hada_", "a LoRA, which goes on top of FLUX.1"),
    (r"controlnet", "a ControlNet"),
    (r"double_stream_modulation", "FLUX.2, which is another network"),
    (r"joint_blocks\.", "Stable Diffusion 3"),
    (r"input_blocks\.|down_blocks\.", "Stable Diffusion 1, 2 or XL, or an autoencoder"),
    (r"encoder\.block\.|text_model\.", "a text encoder"),
)
FOUR_BITS = (".absmax", ".quant_map")
WHOLE = "Choose the file in 16 or 8 bits; `quantise` makes it as small in memory."
TAKE = "Choose FLUX.1's transformer: the file flux1-….safetensors, or the folder with model_index.json."


@dataclass(frozen=True)
class Place:
    """Where a tensor of a file goes: rows `start` to `stop` of a parameter; `swapped`: its halves change places."""

    name: str
    start: int = 0
    stop: int | None = None
    swapped: bool = False

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


# --- reading ------------------------------------------------------------------------------------------------------


def read_flux(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    each: Callable[[str, nn.Module], None] | None = None,
) -> Flux:  # fmt: skip
    """The network of a folder or a file, in eval mode and without gradients.

    `each` is called with a block's name and the block as soon as it is filled: where it makes its layers smaller, the
    network never lies in memory as it was. Raises `ModelFileError` that names what is missing, not known, or of another
    shape.
    """
    with Source(path) as source:
        config = source.config or config_of(source.shapes)
        with torch.device("meta"):
            flux = Flux(config)
        places = layout(config, bfl=BFL in source.shapes)
        wanted = {name: tuple(value.shape) for name, value in flux.named_parameters()}
        there = {name: torch.empty(shape, device="meta") for name, shape in source.shapes.items()}
        check_shapes(_shapes(places, wanted), there, path.name)
        _fill(flux, source, places, torch.device(device), dtype, each)
    return flux.eval().requires_grad_(False)


def read_config(path: Path) -> FluxConfig:
    """The shape of a folder's or a file's network, without reading its weights. Raises `ModelFileError`."""
    with Source(path) as source:
        return source.config or config_of(source.shapes)


class Source:
    """The transformer's tensors in one or several `.safetensors` files, opened but not read."""

    def __init__(self, path: Path) -> None:
        self.files, self.config = _files(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._where: dict[str, tuple[Any, str]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Source:
        for file in self.files:
            self._add(file)
        names = list(self._where)
        prefix = next((p for p in PREFIXES if f"{p}{BFL}" in self._where or f"{p}{DIFFUSERS}" in self._where), None)
        if prefix is None:
            self._open.close()
            kind = next((kind for pattern, kind in OTHERS if any(re.search(pattern, name) for name in names)), "")
            raise ModelFileError(
                f"{self.files[0].name} does not hold FLUX.1's transformer{f': it is {kind}' if kind else ''}.", TAKE
            )
        if any(name.endswith(FOUR_BITS) for name in names):
            self._open.close()
            raise ModelFileError(f"{self.files[0].name} is in bitsandbytes' 4 bits, which are not read here.", WHOLE)
        beside = BESIDE if prefix else ()
        self._where = {
            name.removeprefix(prefix): where for name, where in self._where.items() if not name.startswith(beside)
        }
        self.shapes = {
            name: tuple(handle.get_slice(key).get_shape())
            for name, (handle, key) in self._where.items()
            if not name.endswith((*UNUSED, *SCALED))
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def read(self, name: str) -> Tensor:
        """A tensor, multiplied by its scale where it has one."""
        tensor = self._get(name)
        layer = name.rpartition(".")[0]
        scale = next((f"{layer}.{scale}" for scale in SCALED if f"{layer}.{scale}" in self._where), None)
        if scale is None or not name.endswith(".weight"):
            return tensor
        factor = self._get(scale).float()
        return tensor.float() * (factor.reshape(-1, 1) if factor.numel() > 1 else factor)

    def _get(self, name: str) -> Tensor:
        handle, key = self._where[name]
        tensor: Tensor = handle.get_tensor(key)
        return tensor

    def _add(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            handle = self._open.enter_context(safe_open(str(file), "pt"))
        except FileNotFoundError as error:
            self._open.close()
            raise ModelFileError(
                f"There is no file {file}.", "Get the rest of the folder, or check the path."
            ) from error
        except (SafetensorError, OSError) as error:
            self._open.close()
            if _starts_with(file, b"GGUF"):
                raise ModelFileError(f"{file.name} is a GGUF file, which is not read here.", WHOLE) from error
            raise ModelFileError(
                f"{file.name} is not a whole safetensors file.", "It is cut short, damaged or another kind of file."
            ) from error
        self._where.update({key: (handle, key) for key in handle.keys()})  # noqa: SIM118  (it is no dict)


def _files(path: Path) -> tuple[list[Path], FluxConfig | None]:
    """The files of weights of a path, and the config that lies beside them."""
    if not path.is_dir():
        return [path], None
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else None
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if indexes:
        names = sorted(set(_json(indexes[0]).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise ModelFileError(f"{indexes[0].name} names files outside of its folder.", "Get the folder again.")
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelFileError(f"{folder} holds no .safetensors file of weights.", TAKE)
    if len(files) > 1 and not indexes:
        several = ", ".join(file.name for file in files[:4])
        raise ModelFileError(f"{folder} holds several files of weights ({several}) and no index.", "Name one of them.")
    try:
        return files, from_published(config) if config is not None else None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{folder / 'config.json'} does not describe FLUX.1's transformer.", TAKE) from error


def _starts_with(file: Path, start: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(start)) == start
    except OSError:
        return False


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read as JSON.", "It is damaged: get it again.") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds no settings.", "It is damaged: get it again.")
    return found


def _shapes(places: Mapping[str, Place], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of the file must have."""
    found = {}
    for name, place in places.items():
        rows, *rest = wanted[place.name]
        found[name] = (len(range(rows)[place.rows]), *rest)
    return found


def _fill(
    flux: Flux, source: Source, places: Mapping[str, Place], device: torch.device, dtype: torch.dtype,
    each: Callable[[str, nn.Module], None] | None,
) -> None:  # fmt: skip
    comes: dict[str, list[tuple[str, Place]]] = {}
    for name, place in places.items():
        comes.setdefault(place.name, []).append((name, place))
    for name, module in parts_of(flux):
        for part, empty in list(module.named_parameters()):
            value = torch.empty(empty.shape, dtype=dtype, device=device)
            for key, place in comes[f"{name}.{part}"]:
                tensor = source.read(key)
                value[place.rows].copy_(tensor.roll(len(tensor) // 2, 0) if place.swapped else tensor)
            layer, _, leaf = part.rpartition(".")
            setattr(module.get_submodule(layer), leaf, nn.Parameter(value, requires_grad=False))
        if each is not None and "_blocks." in name:
            each(name, module)


def parts_of(flux: Flux) -> list[tuple[str, nn.Module]]:
    """The network in pieces, by name: each block is one."""
    pieces = []
    for name, module in flux.named_children():
        if isinstance(module, nn.ModuleList):
            pieces += [(f"{name}.{i}", block) for i, block in enumerate(module)]
        else:
            pieces.append((name, module))
    return pieces


# --- names --------------------------------------------------------------------------------------------------------


def layout(config: FluxConfig, *, bfl: bool) -> dict[str, Place]:
    """Every tensor of a published file and where it goes, in Black Forest Labs' spelling or in diffusers'."""
    return _bfl(config) if bfl else _diffusers(config)


def _diffusers(config: FluxConfig) -> dict[str, Place]:
    found = {
        f"{name}.{part}": Place(f"{target.module}.{part}", target.start, target.stop)
        for name, target in targets(config).items()
        for part in ("weight", "bias")
    }
    for theirs, ours in (
        ("norm_q", "img_q"),
        ("norm_k", "img_k"),
        ("norm_added_q", "txt_q"),
        ("norm_added_k", "txt_k"),
    ):
        for i in range(config.double_blocks):
            found[f"transformer_blocks.{i}.attn.{theirs}.weight"] = Place(f"double_blocks.{i}.{ours}_norm.weight")
    for part in ("q", "k"):
        for i in range(config.single_blocks):
            name = f"single_transformer_blocks.{i}.attn.norm_{part}.weight"
            found[name] = Place(f"single_blocks.{i}.{part}_norm.weight")
    return found


def _bfl(config: FluxConfig) -> dict[str, Place]:
    found = {}
    for name in dict.fromkeys(place.name for place in _diffusers(config).values()):
        module, _, part = name.rpartition(".")
        theirs = f"{_bfl_name(module)}.{'scale' if module.endswith('_norm') else part}"
        found[theirs] = Place(name, swapped=module == "final_mod")
    return found


def _bfl_name(module: str) -> str:
    """Black Forest Labs' name of one of our layers."""
    block, number, layer = (*module.split("."), "", "")[:3]
    if block == "double_blocks":
        stream, part = layer.split("_", 1)
        return f"{block}.{number}.{stream}_{STREAM[part]}"
    if block == "single_blocks":
        return f"{block}.{number}.{SINGLE.get(layer, layer)}"
    return EMBEDDERS.get(module, module)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> FluxConfig:
    """The shape of a network that comes without a config, from its tensors. Raises `ModelFileError`."""
    bfl = BFL in shapes
    ours = {
        theirs: place.name for theirs, place in layout(FluxConfig(double_blocks=1, single_blocks=1), bfl=bfl).items()
    }
    known = {ours[name]: shape for name, shape in shapes.items() if name in ours}
    try:
        hidden, channels = known["img_in.weight"]
        (head,) = known["double_blocks.0.img_q_norm.weight"]
        side = head * 7 // 32 * 2  # 56 of 128 for rows, as many for columns
        return FluxConfig(
            in_channels=channels, out_channels=known["final_out.weight"][0],
            double_blocks=_count(shapes, "double_blocks" if bfl else "transformer_blocks"),
            single_blocks=_count(shapes, "single_blocks" if bfl else "single_transformer_blocks"),
            heads=hidden // head, head_dim=head, text_width=known["txt_in.weight"][1],
            pooled_width=known["vector_in.first.weight"][1], guidance="guidance_in.first.weight" in known,
            axes=(head - 2 * side, side, side),
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"The file does not hold all of FLUX.1's transformer: {error} is missing.", TAKE
        ) from error


def _count(names: Iterable[str], kind: str) -> int:
    numbers = [int(found[1]) for name in names if (found := re.match(rf"{kind}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


# --- writing ------------------------------------------------------------------------------------------------------


def published(flux: Flux) -> dict[str, Tensor]:
    """The network's tensors under diffusers' names: views, no copies."""
    mine = dict(flux.named_parameters())
    return {name: mine[place.name].detach()[place.rows] for name, place in layout(flux.config, bfl=False).items()}


def write_flux(folder: Path, flux: Flux) -> Path:
    """A `transformer` folder as diffusers reads it."""
    from vividcover.files import write_text

    config = flux.config
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": config.in_channels,
        "out_channels": config.out_channels, "num_layers": config.double_blocks,
        "num_single_layers": config.single_blocks, "attention_head_dim": config.head_dim,
        "num_attention_heads": config.heads, "joint_attention_dim": config.text_width,
        "pooled_projection_dim": config.pooled_width, "guidance_embeds": config.guidance,
        "axes_dims_rope": list(config.axes),
    }  # fmt: skip
    write_text(folder / "config.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return write_tensors(folder / "diffusion_pytorch_model.safetensors", published(flux), {"format": "pt"})
