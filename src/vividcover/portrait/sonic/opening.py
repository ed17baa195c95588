"""Sonic opened: its files are looked into at once, and each part is loaded when it is first used.

    sonic = open_sonic(sonic_files(weights), device="auto")
    vector = sonic.clip(rgb)                    # uint8 [H, W, 3] → [1, 1024]
    velocity = sonic.unet(…)                    # 1.6 billion numbers; the first use loads them
    sonic.release("unet")                       # nothing needs it any more
    sonic.notes                                 # what was done or left, for whoever makes the portrait

A wrong file is refused before any work begins, by the names and shapes of its tensors. Number formats are those of the
published program: half precision on a GPU for the UNet, the autoencoder and CLIP, single for what hears and for RIFE.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.image.flux.folders import strictly
from vividcover.image.flux.opening import room_on
from vividcover.portrait.sonic.clip import clip_vector
from vividcover.portrait.sonic.config import LATENT_CHANNELS, AudioConfig, UNetConfig
from vividcover.portrait.sonic.files import SVD_HINT, SonicFiles, audio_config, unet_config
from vividcover.portrait.sonic.network import SonicUNet
from vividcover.portrait.sonic.published import SAID, Published, fingerprint, sound
from vividcover.portrait.sonic.rife import IFNet
from vividcover.portrait.sonic.speech import Audio2Bucket, Audio2Token
from vividcover.portrait.sonic.whisper import WhisperEncoder
from vividcover.tensors import pick_device, pick_dtype, read_tensors
from vividcover.weights.licences import LicenceNote, licence_of_portrait

PART = Literal["unet", "tokens", "buckets", "whisper", "clip", "vae", "rife"]
OWN = ("unet", "tokens", "buckets", "whisper", "rife")  # networks of ours; the others are of transformers and diffusers
VAE = ("vae", "vae", "diffusion_pytorch_model")  # part, folder in SVD's, and what its file is called
CLIP = ("clip", "image_encoder", "model")
HALF = torch.float16
WHISPER = "model.encoder."  # of the published file; its other half writes down what it heard, which nobody needs
WHISPER_FILES = ("model.safetensors", "pytorch_model.bin")  # the same numbers; the first that is there
RIFE_WIDTH = "block0.conv0.1.0.bias"
LESS = "Close other programs, or choose a device with more memory."
EIGHT_BITS = (".ff", ".attn", ".proj_in", ".proj_out")  # linear layers in the transformers: 53 % of the work
ONCE_A_WINDOW = (".to_k_ip", ".to_v_ip", "attn2.to_k", "attn2.to_v")  # they see a few rows only, and stay as they are
Net = TypeVar("Net", bound=nn.Module)


def open_sonic(
    files: SonicFiles, *, device: torch.device | str = "auto", dtype: torch.dtype | str = "auto",
    quantise: Literal["fp8"] | None = None,
) -> Sonic:  # fmt: skip
    """Sonic of these files; nothing but names and shapes is read yet.

    `dtype` "auto" is the published float16 on a GPU, float32 on a CPU. `quantise` "fp8": the UNet's large layers in
    8 bits; where the device cannot, they stay, and `notes` says so. Raises `ModelFileError` (a file is none of
    Sonic's, or the files do not belong together), `WeightsError`, `ParameterError`, `EngineError`.
    """
    if quantise not in (None, "fp8"):
        raise ParameterError(f"quantise is {quantise!r}.", "Choose fp8, or leave it out.")
    chosen = pick_device(device) if isinstance(device, str) else device
    return Sonic(files, chosen, dtype_on(chosen, dtype), quantise)


def dtype_on(device: torch.device, dtype: torch.dtype | str = "auto") -> torch.dtype:
    """The number format of the UNet. Raises `ParameterError` for one that the device is not for."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return pick_dtype(device, dtype)


class Sonic:
    """An opened Sonic. Its parts are loaded when they are first used, and again after `release`."""

    def __init__(
        self, files: SonicFiles, device: torch.device, dtype: torch.dtype, quantise: Literal["fp8"] | None = None
    ) -> None:
        self.files, self.device, self.dtype = files, device, dtype
        why_not = no_8_bits(device) if quantise else ""
        self.quantise: Literal["fp8"] | None = None if why_not else quantise  # what is done, not what was asked for
        self.notes: list[str] = [why_not] if why_not else []
        self.config: UNetConfig = unet_config(files)
        self._published = {
            "unet": Published(files.unet, "unet"),
            "tokens": Published(files.audio2token, "tokens"),
            "buckets": Published(files.audio2bucket, "buckets"),
            "whisper": Published(_first(files.whisper), "whisper", WHISPER),
            "rife": Published(files.rife, "rife"),
        }
        self._published["unet"].check(shapes_of(SonicUNet, self.config))
        self.audio_config: AudioConfig = audio_config(files, self._published["tokens"], self.config)
        for name in OWN[1:]:
            self._published[name].check(shapes_of(*self._recipe(name)))
        self._parts: dict[str, Any] = {}
        self._loading = threading.RLock()

    # --- parts -------------------------------------------------------------------------------------------------------

    @property
    def unet(self) -> SonicUNet:
        found: SonicUNet = self._part("unet", self._load_unet)
        return found

    @property
    def tokens(self) -> Audio2Token:
        found: Audio2Token = self._own("tokens")
        return found

    @property
    def buckets(self) -> Audio2Bucket:
        found: Audio2Bucket = self._own("buckets")
        return found

    @property
    def whisper(self) -> WhisperEncoder:
        found: WhisperEncoder = self._own("whisper")
        return found

    @property
    def rife(self) -> IFNet:
        found: IFNet = self._own("rife")
        return found

    @property
    def vae(self) -> Any:
        """diffusers' AutoencoderKLTemporalDecoder."""
        return self._part("vae", self._load_vae)

    def clip(self, rgb: Any) -> Tensor:
        """What CLIP sees in a picture uint8 [H, W, 3]: [1, context] float32 on the device."""
        return clip_vector(self._part("clip", self._load_clip), rgb)

    def release(self, *parts: PART) -> None:
        """Frees what these parts take in memory."""
        with self._loading:
            gone = [self._parts.pop(part, None) for part in parts]
        if any(part is not None for part in gone) and self.device.type == "cuda":
            del gone
            torch.cuda.empty_cache()

    def loaded(self) -> list[str]:
        """Which parts are in memory now."""
        return [part for part in SAID if part in self._parts]

    def bytes_of_unet(self) -> int:
        """What the UNet takes in memory, before anything is made smaller."""
        return sum(value.numel() for value in self._published["unet"].tensors.values()) * self.dtype.itemsize

    @functools.cached_property
    def key(self) -> str:
        """Names these weights, by their numbers: other weights, other key, wherever the files lie."""
        each = {name: file.fingerprint() for name, file in self._published.items()}
        for name, part, stem in (VAE, CLIP):
            file = self.files.svd / part / f"{stem}{self._variant(part, stem)}.safetensors"
            each[name] = fingerprint(read_tensors(file, mapped=True))
        return hashlib.sha256(repr(sorted(each.items())).encode()).hexdigest()

    @property
    def licence(self) -> LicenceNote:
        return licence_of_portrait()

    # --- loading -----------------------------------------------------------------------------------------------------

    def _part(self, name: str, load: Callable[[], Any]) -> Any:
        with self._loading:
            if name not in self._parts:
                try:
                    with torch.inference_mode(False):  # whatever the first caller is in
                        self._parts[name] = load()
                except (torch.OutOfMemoryError, MemoryError) as error:
                    raise EngineError(
                        f"The memory of {self.device} does not suffice to load {SAID[name]}.", LESS
                    ) from error
            return self._parts[name]

    def _recipe(self, name: str) -> tuple[Any, Any]:
        """The network of a part, and what it is built from."""
        if name == "rife":
            return IFNet, self._published["rife"].shape(RIFE_WIDTH, 1)[0]
        nets = {"unet": SonicUNet, "tokens": Audio2Token, "buckets": Audio2Bucket, "whisper": WhisperEncoder}
        return nets[name], self.config if name == "unet" else self.audio_config

    def _own(self, name: str) -> Any:
        return self._part(name, lambda: self._filled(name, torch.float32))

    def _filled(self, name: str, dtype: torch.dtype) -> Any:
        file = self._published[name]
        self._note(file.keep())
        return filled(*self._recipe(name), file.tensors, self.device, dtype, file.path.name, checked=file.kept_by_us)

    def _note(self, text: str) -> None:
        if text and text not in self.notes:
            self.notes.append(text)

    def _load_unet(self) -> SonicUNet:
        needed, room = self.bytes_of_unet(), room_on(self.device)
        if room is not None and needed > room:
            gigabytes = f"{needed / 1e9:.1f} GB, and {room / 1e9:.1f} GB"
            raise EngineError(f"{SAID['unet']} takes {gigabytes} of {self.device}'s memory are free.", LESS)
        unet: SonicUNet = self._filled("unet", self.dtype)
        if self.device.type != "cpu":  # a CPU's kernels rearrange weights anyway, and what is mapped would be copied
            unet.lay_out()
        if self.quantise == "fp8":
            self._note(in_8_bits(unet, self.device))
        return unet

    def _load_vae(self) -> Any:
        from diffusers import AutoencoderKLTemporalDecoder

        half = self.dtype != torch.float32 and self.device.type == "cuda"
        vae = self._folder(AutoencoderKLTemporalDecoder, VAE, {"torch_dtype": HALF if half else torch.float32})
        if vae.config.latent_channels != LATENT_CHANNELS:
            raise ModelFileError(
                f"The autoencoder in {self.files.svd} has {vae.config.latent_channels} channels, not "
                f"{LATENT_CHANNELS}.",
                SVD_HINT,
            )
        return vae

    def _load_clip(self) -> Any:
        from transformers import CLIPVisionModelWithProjection

        half = self.dtype == HALF and self.device.type == "cuda"
        return self._folder(CLIPVisionModelWithProjection, CLIP, {"dtype": HALF if half else torch.float32})

    def _folder(self, kind: Any, where: tuple[str, str, str], more: Mapping[str, Any]) -> Any:
        """A part of SVD's folder."""
        name, part, stem = where
        if variant := self._variant(part, stem):
            more = {**more, "variant": variant.removeprefix(".")}
        net = strictly(kind, self.files.svd / part, SAID[name], use_safetensors=True, **more)
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                sound(key, value, f"{part} of {self.files.svd.name}")
        return net.to(self.device)

    def _variant(self, part: str, stem: str) -> str:
        """ ".fp16" where the folder has that file: it is the one that published programs take."""
        return ".fp16" if (self.files.svd / part / f"{stem}.fp16.safetensors").is_file() else ""


def _first(whisper: Path) -> Path:
    """The file with whisper's weights in its folder, or the one that ought to be there."""
    places = [whisper / name for name in WHISPER_FILES]
    return next((place for place in places if place.is_file()), places[0])


def filled(
    kind: Callable[[Any], Net], sizes: Any, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype,
    what: str, *, checked: bool = False,
) -> Net:  # fmt: skip
    """A network with these tensors, which go one by one from the file to where they stay: never twice in memory.

    `checked`: they are known to be finite numbers, so that those which stay as they are need not even be read now.
    """
    state = {}
    for name, value in tensors.items():
        state[name] = value.to(device).to(dtype)  # in this order a GPU rounds them, not the processor
        if not (checked and state[name] is value) and not bool(torch.isfinite(state[name]).all()):
            sound(name, value, what)
            raise ModelFileError(
                f"{name} of {what} holds numbers that half precision cannot.", "Choose the number format bf16 or fp32."
            )
    with torch.device("meta"):
        net = kind(sizes)
    net.load_state_dict(state, strict=True, assign=True)
    return net.eval().requires_grad_(False)


@functools.lru_cache(16)
def shapes_of(kind: Callable[[Any], nn.Module], sizes: Any) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of a network of these sizes."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in kind(sizes).state_dict().items()}


def no_8_bits(device: torch.device) -> str:
    """Why fp8 is not for a device, in words; "" where it multiplies 8 bit numbers faster than others."""
    from vividcover.image.flux.fp8 import runs_on

    if device.type != "cuda":
        return f"fp8 is not used: on {device} it would take longer"
    if not runs_on(device):
        return f"fp8 is not used: {device} cannot multiply 8 bit numbers (it takes compute capability 8.9)"
    return ""


def in_8_bits(unet: SonicUNet, device: torch.device) -> str:
    """Replaces the transformers' large linear layers by fp8 ones, whatever the device; says what it did.

    Where the device does not multiply 8 bit numbers, only the weights are rounded.
    """
    from vividcover.image.flux.fp8 import MULTIPLE, Fp8Linear
    from vividcover.image.flux.quant import put

    chosen = [
        (name, layer)
        for name, layer in unet.named_modules()
        if type(layer) is nn.Linear and any(part in name for part in EIGHT_BITS)
        and not any(part in name for part in ONCE_A_WINDOW)
        and layer.in_features % MULTIPLE == 0 == layer.out_features % MULTIPLE
    ]  # fmt: skip
    for name, layer in chosen:
        put(unet, name, Fp8Linear(layer.to(device), training=False))
    return f"fp8: {len(chosen)} layers of the UNet compute in 8 bits"
