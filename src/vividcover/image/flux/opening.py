"""FLUX.1 opened: the transformer, the text encoders and the autoencoder, each loaded when it is first used.

    base = open_base(base_files("dev", weights), device=device, dtype=torch.bfloat16)
    text = base.encode_text(["TOK on a stage"])        # T5: tokens [B, 512, 4096]; CLIP: pooled [B, 768]
    base.release("text")                               # 10 GB that nothing needs any more
    latents = base.encode_pictures(pixels)             # [B, 3, H, W] in -1..1 → [B, 16, H/8, W/8]
    pixels = base.decode(latents)

The transformer is ours (`network.py`); the text encoders are transformers', the autoencoder diffusers'.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vividcover.errors import EngineError, ModelFileError, ParameterError, WeightsError
from vividcover.image.flux.checkpoint import read_config, read_flux
from vividcover.image.flux.config import CONTROL, DEV, DOWN, FILL, SCHNELL, FluxConfig
from vividcover.image.flux.folders import AGAIN, quietly, strictly
from vividcover.image.flux.network import Flux
from vividcover.image.flux.tiles import tiled

if TYPE_CHECKING:
    from vividcover.weights import Resolver

KINDS = {"dev": DEV, "schnell": SCHNELL, "fill": FILL, "canny": CONTROL, "depth": CONTROL}
Quantised = Literal["none", "fp8", "int8", "nf4"]
PARTS = ("flux", "text", "vae")
SAID = {"flux": "FLUX.1's transformer", "text": "FLUX.1's text encoders", "vae": "FLUX.1's autoencoder"}
BYTES = {"fp8": 1.0, "int8": 1.0, "nf4": 0.56}  # of one of its numbers
LESS = "Hold it in fewer bits (int8, nf4), close other programs, or choose a device with more memory."
CLIP_TOKENS = 77
TEXTS_AT_ONCE = 8  # through T5, which at 512 tokens takes 0.2 GB for each
PIXELS_AT_ONCE = 1536 * 1536  # through the autoencoder in one piece; more are done in tiles
ROOMS = ((40 << 30, 4.0), (20 << 30, 1.0), (0, 0.5))  # bytes of a GPU, and how many times as many it takes


@dataclass(frozen=True)
class BaseFiles:
    """Where the parts are. `text` holds text_encoder, text_encoder_2, tokenizer and tokenizer_2; `vae` is or holds vae.

    `transformer`: a diffusers folder, or one file.
    """

    transformer: Path
    text: Path
    vae: Path
    kind: str = "dev"


@dataclass(frozen=True, eq=False)
class Text:
    """Prompts as the transformer takes them."""

    tokens: Tensor  # [B, T, text width], T5's
    pooled: Tensor  # [B, pooled width], CLIP's


def base_files(name: str, weights: Resolver) -> BaseFiles:
    """The files of `name` ("dev", "schnell", "fill", "canny", "depth") out of the registry.

    A whole diffusers folder given for the transformer is used for its text encoders and autoencoder too. Raises
    `ParameterError`, and `WeightsError` for what was not pulled.
    """
    if name not in KINDS:
        raise ParameterError(f"There is no FLUX.1 called {name!r}.", f"Choose one of {', '.join(KINDS)}.")
    transformer = weights.path(f"flux-{name}")
    text = transformer if (transformer / "text_encoder_2").is_dir() else weights.path("flux-text")
    vae = transformer if (transformer / "vae").is_dir() else weights.path("flux-vae")
    return BaseFiles(transformer, text, vae, name)


def open_base(
    files: BaseFiles, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    quantise: Quantised = "none", training: bool = True,
) -> Base:  # fmt: skip
    """FLUX.1 of these files; nothing but the shape of the transformer is read yet.

    `quantise` makes the transformer's blocks smaller as they are read; `training` False leaves out what only learning
    needs. Raises `ModelFileError` where the transformer is none of FLUX.1, or of another kind than `files.kind`.
    """
    if quantise not in ("none", "fp8", "int8", "nf4"):
        raise ParameterError(f"quantise is {quantise!r}.", "Choose none, fp8, int8 or nf4.")
    config = read_config(files.transformer)
    expected = KINDS[files.kind]
    if (config.in_channels, config.guidance) != (expected.in_channels, expected.guidance):
        alike = [k for k, c in KINDS.items() if (c.in_channels, c.guidance) == (config.in_channels, config.guidance)]
        is_ = f"one of {' or '.join(alike)}" if alike else f"one with {config.in_channels} channels"
        raise ModelFileError(
            f"{files.transformer} is not the transformer of FLUX.1 [{files.kind}]: it is {is_}.",
            "Give it for what it is, or choose another file.",
        )
    return Base(files, config, torch.device(device), dtype, quantise, training)


class Base:
    """An opened FLUX.1. Its parts are loaded when they are first used, and again after `release`."""

    def __init__(
        self, files: BaseFiles, config: FluxConfig, device: torch.device, dtype: torch.dtype,
        quantise: Quantised = "none", training: bool = True,
    ) -> None:  # fmt: skip
        self.files, self.config, self.device, self.dtype = files, config, device, dtype
        self.quantise, self.training = quantise, training
        self._parts: dict[str, Any] = {}
        self._loading = threading.Lock()

    @property
    def kind(self) -> str:
        return self.files.kind

    @property
    def flux(self) -> Flux:
        """The transformer, in eval mode and without gradients."""
        flux: Flux = self._part("flux", self._load_flux)
        return flux

    def encode_text(self, prompts: Sequence[str], length: int = 512) -> Text:
        """Prompts, each cut or filled up to `length` tokens of T5. On the device, in the base's number format."""
        reader: _Reader = self._part("text", self._load_text)
        with torch.no_grad():
            parts = [reader(prompts[i : i + TEXTS_AT_ONCE], length) for i in range(0, len(prompts), TEXTS_AT_ONCE)]
        tokens, pooled = (torch.cat(part) for part in zip(*parts, strict=True))
        return Text(tokens, pooled)

    def left_out(self, prompt: str, length: int = 512) -> str:
        """The end of a prompt that does not fit into so many tokens of T5; "" where all of it does."""
        reader: _Reader = self._part("text", self._load_text)
        with quietly():
            ids = reader.t5_words(prompt).input_ids
            return str(reader.t5_words.decode(ids[length - 1 : -1])) if len(ids) > length else ""

    def encode_pictures(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in -1..1 → latents [B, 16, H/8, W/8] float32 on the device, shifted and scaled.

        The autoencoder says a mean and a spread: without a generator the mean is taken, with one (on the CPU or the
        device) a sample, as diffusers' pipelines draw it. H and W are multiples of 8.
        """
        vae = self._vae()
        pixels = pixels.to(self.device, vae.dtype)
        with torch.no_grad():
            found = torch.cat([self._encoded(vae, picture[None]) for picture in pixels])
        mean, logvar = found.float().chunk(2, 1)
        if generator is not None:
            drawn = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=vae.dtype)
            mean = mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * drawn.to(mean)
        latents: Tensor = (mean - vae.config.shift_factor) * vae.config.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 16, h, w] → [B, 3, 8h, 8w] float32, about -1..1. In tiles where the picture is large."""
        vae = self._vae()
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        with torch.no_grad():
            return torch.cat([self._decoded(vae, one[None].to(self.device, vae.dtype)) for one in latents])

    def release(self, part: Literal["text", "vae", "flux"]) -> None:
        """Frees what a part takes in memory."""
        assert part in PARTS, part
        with self._loading:
            gone = self._parts.pop(part, None)
        if gone is not None and self.device.type == "cuda":
            del gone
            torch.cuda.empty_cache()

    def loaded(self) -> list[str]:
        """Which parts are in memory now."""
        return [part for part in PARTS if part in self._parts]

    def bytes_of_flux(self) -> float:
        """What the transformer takes in memory."""
        with torch.device("meta"):
            numbers = sum(p.numel() for p in Flux(self.config).parameters())
        both_ways = 2 if self.quantise == "fp8" and self.training else 1
        return numbers * BYTES.get(self.quantise, float(self.dtype.itemsize)) * both_ways

    # --- parts ----------------------------------------------------------------------------------------------------

    def _part(self, name: str, load: Any) -> Any:
        with self._loading:
            if name not in self._parts:
                try:
                    with torch.inference_mode(False):  # whatever the first caller is in: others may learn with it
                        self._parts[name] = load()
                except (torch.OutOfMemoryError, MemoryError) as error:
                    raise EngineError(
                        f"The memory of {self.device} does not suffice to load {SAID[name]}.", LESS
                    ) from error
            return self._parts[name]

    def _load_flux(self) -> Flux:
        needed, room = self.bytes_of_flux(), room_on(self.device)
        if room is not None and needed > room:
            gigabytes = f"{needed / 1e9:.1f} GB, and {room / 1e9:.1f} GB"
            raise EngineError(f"{SAID['flux']} takes {gigabytes} of {self.device}'s memory are free.", LESS)
        if self.quantise == "none":
            return read_flux(self.files.transformer, device=self.device, dtype=self.dtype)
        from vividcover.image.flux import quant

        def smaller(name: str, block: nn.Module) -> None:
            shell = nn.Module()  # in which the block has a name as in the network
            shell.add_module(name.partition(".")[0], nn.ModuleList([block]))
            quant.quantise(shell, self.quantise, training=self.training, device=self.device)

        return read_flux(self.files.transformer, dtype=self.dtype, each=smaller).to(self.device)

    def _load_text(self) -> _Reader:
        return _Reader(self.files.text, self.device, self.dtype)

    def _vae(self) -> Any:
        return self._part("vae", self._load_vae)

    def _load_vae(self) -> Any:
        from diffusers import AutoencoderKL

        folder = self.files.vae / "vae" if (self.files.vae / "vae").is_dir() else self.files.vae
        dtype = torch.float32 if self.dtype == torch.float16 else self.dtype  # it goes beyond what float16 can hold
        vae = strictly(AutoencoderKL, folder, "FLUX.1's autoencoder", torch_dtype=dtype).to(self.device)
        if vae.config.latent_channels * 4 != self.config.out_channels or vae.config.shift_factor is None:
            raise ModelFileError(
                f"{folder} holds an autoencoder of {vae.config.latent_channels} channels, which is not FLUX.1's.", AGAIN
            )
        return vae.to(memory_format=torch.channels_last) if self.device.type == "cuda" else vae

    # --- the autoencoder ------------------------------------------------------------------------------------------

    def _encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        """[1, 3, H, W] → mean and log of the variance [1, 32, h, w]"""

        def moments(part: Tensor) -> Tensor:
            found = vae.encode(part).latent_dist
            return torch.cat((found.mean, found.logvar), 1)

        large = self._large(pixels.shape[2] // DOWN, pixels.shape[3] // DOWN)
        return tiled(moments, pixels, DOWN, 1) if large else moments(pixels)

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        """[1, 16, h, w] → [1, 3, 8h, 8w] float32"""

        def pixels(part: Tensor) -> Tensor:
            found: Tensor = vae.decode(part, return_dict=False)[0]
            return found.float()

        return tiled(pixels, latents, 1, DOWN) if self._large(*latents.shape[2:]) else pixels(latents)

    def _large(self, h: int, w: int) -> bool:
        most = float(PIXELS_AT_ONCE)
        if self.device.type == "cuda":
            room = torch.cuda.get_device_properties(self.device).total_memory
            most *= next(times for least, times in ROOMS if room >= least)
        return h * w * DOWN * DOWN > most


def room_on(device: torch.device) -> float | None:
    """Bytes of memory that are free there; None where nobody says."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    told = Path("/proc/meminfo")
    if device.type != "cpu" or not told.is_file():
        return None
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
    return 1024.0 * int(lines["MemAvailable"].split()[0]) if "MemAvailable" in lines else None


class _Reader:
    """Both text encoders and their tokenizers."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

        self.device = device
        self.clip_words = _tokenizer(CLIPTokenizer, folder / "tokenizer")
        self.t5_words = _tokenizer(AutoTokenizer, folder / "tokenizer_2")
        self.clip = strictly(CLIPTextModel, folder / "text_encoder", "CLIP", dtype=dtype).to(device)
        self.t5 = strictly(T5EncoderModel, folder / "text_encoder_2", "T5", dtype=dtype).to(device)

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """tokens [B, length, text width], pooled [B, pooled width]"""
        pooled = self.clip(self._ids(self.clip_words, prompts, CLIP_TOKENS)).pooler_output
        return self.t5(self._ids(self.t5_words, prompts, length))[0], pooled

    def _ids(self, words: Any, prompts: Sequence[str], length: int) -> Tensor:
        with quietly():
            found = words(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids: Tensor = found.input_ids.to(self.device)
        return ids


def _tokenizer(kind: Any, folder: Path) -> Any:
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder} with FLUX.1's tokenizer.", AGAIN)
    try:
        with quietly():
            return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # a damaged folder fails in as many ways as the library has readers
        raise WeightsError(f"{folder} does not hold FLUX.1's tokenizer.", AGAIN) from error
