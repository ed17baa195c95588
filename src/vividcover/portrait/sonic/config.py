"""Names and numbers of Sonic and of Stable Video Diffusion (SVD-xt), on which it is built.

Sources: the published configuration files (SVD-xt `unet/config.json`, `scheduler/scheduler_config.json`; Sonic
`config/inference/sonic.yaml`), arXiv:2311.15127 (SVD), arXiv:2411.16331 (Sonic), arXiv:2206.00364 (Karras et al.).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vividcover.errors import ModelFileError, ParameterError

FPS = 12.5  # frames a second that the network draws; interpolation doubles them
VIDEO_FPS = 25
WINDOW = 25  # frames that the network sees at once
SHIFT = 7  # frames by which the windows move back at each step
STEPS = 25
SIGMA_MAX, SIGMA_MIN, RHO = 700.0, 0.002, 7.0
LATENT_CHANNELS, LATENT_SCALE = 4, 0.18215
PIXELS = 8  # px of the picture for each latent, along a side
SIDES = 64  # px: sides are multiples of it, so that three halvings of the latents come out even
APPEARANCE_GUIDANCE, AUDIO_GUIDANCE = 2.0, 7.5
BRANCHES = 3  # nothing; picture; picture and voice
DECODE_CHUNK = 8  # frames that the autoencoder decodes at once
AUDIO_RATE = 16_000  # Hz
AUDIO_HOP = 640  # samples: 25 a second; two for each frame of the network
SHORTEST = 0.08  # seconds of sound: two hops, which is one frame of the network
CHUNK_SECONDS = 30  # of sound that whisper hears at once
FEATURE_RATE = 50  # whisper's frames a second
TOKENS = 32  # audio tokens for each frame
TOKEN_REACH, BUCKET_REACH = 10, 50  # whisper frames around each frame of the network
TOKEN_PAD, BUCKET_PAD = (4, 6), (24, 26)  # whisper frames of nothing before and after
BUCKET_SCALE, BUCKET_SHIFT = 16.0, 16.0
CLIP_SIDE = 224  # px
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
EXPAND, MASK_AREA = 0.5, 1.1  # how far the crop reaches beyond the face; how far the mask does
FAST_STEPS = 10
FAST_SIGMAS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)  # Align Your Steps, for SVD


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the UNet. Head width = channels / heads."""

    in_channels: int = 8  # noisy latents, and those of the still
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    layers: int = 2  # resnets in each block on the way down; one more on the way up
    context: int = 1024  # width of CLIP's vector and of an audio token
    added: int = 256  # width of each of the three embedded numbers
    groups: int = 32  # of the group norms


FULL = UNetConfig()
TINY = UNetConfig(channels=(32, 64, 96, 96), heads=(2, 4, 6, 6), context=48, added=16)


@dataclass(frozen=True)
class AudioConfig:
    """Sizes of what hears. Defaults: whisper-tiny's encoder, and Sonic's two nets behind it."""

    width: int = 384  # whisper
    layers: int = 4
    heads: int = 6
    inner: int = 1536
    positions: int = 1500
    mels: int = 80
    hidden: int = 1024  # of audio2token and audio2bucket
    context: int = 1024  # width of a token; and of CLIP's vector
    tokens: int = TOKENS


FULL_AUDIO = AudioConfig()
TINY_AUDIO = AudioConfig(width=16, layers=4, heads=2, inner=32, hidden=24, context=48, tokens=6)


def unet_from_published(values: dict[str, Any]) -> UNetConfig:
    """From SVD's `unet/config.json`. Raises `ModelFileError` for a network of another kind."""
    kinds = values.get("down_block_types")
    if values.get("_class_name") != "UNetSpatioTemporalConditionModel" or (kinds and len(kinds) != 4):
        raise ModelFileError(
            f"This is no Stable Video Diffusion UNet: its configuration says {values.get('_class_name')!r}.",
            "Use the folder of stable-video-diffusion-img2vid-xt.",
        )
    if len(values["block_out_channels"]) != 4:
        raise ModelFileError("The UNet's configuration does not have four levels.", "Use SVD-xt's own.")
    heads = values["num_attention_heads"]
    return UNetConfig(
        values["in_channels"],
        values["out_channels"],
        tuple(values["block_out_channels"]),
        tuple(heads) if isinstance(heads, list | tuple) else (heads,) * 4,
        values["layers_per_block"],
        values["cross_attention_dim"],
        values["addition_time_embed_dim"],
    )


Mode = Literal["exact", "fast"]
SPEEDUPS = ("schedule", "guidance", "features", "silence", "fp8")  # what `fast` is made of


@dataclass(frozen=True)
class SonicOptions:
    """How a portrait is sampled. The first group is the published program's; the rest is ours, and off in `exact`.

    `speedups` may be chosen one by one; mode `fast` takes all that the device can do.
    """

    steps: int | None = None  # None: 25, or 10 with the speed-up `schedule`
    dynamic_scale: float = 1.0
    seed: int = 0
    speedups: tuple[str, ...] = ()
    straight: bool = False  # windows end where the song does, instead of wrapping round to its beginning
    smooth_decoding: bool = False  # the autoencoder's pieces overlap
    smooth_listening: bool = False  # whisper's pieces overlap
    idle: bool = False  # quiet movement of its own where nobody sings
    preview_every: int = 0  # steps between two looks at what is being made; 0: none
    windows_at_once: int = 0  # 0: as many as fit
    processes: int = 1  # that share the windows, one for each GPU
    compile: bool = False
    dtype: str = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.speedups if name not in SPEEDUPS]
        if unknown:
            raise ParameterError(f"There is no speed-up {unknown[0]!r}.", f"Choose from {', '.join(SPEEDUPS)}.")
        if self.steps is not None and not 1 <= self.steps <= 200:
            raise ParameterError(f"steps is {self.steps}.", "Use 1 to 200; 25 is what the network was made for.")
        if not 1 <= self.processes <= 64:
            raise ParameterError(f"processes is {self.processes}.", "Use one for each GPU, or 1.")
        if not 0.0 <= self.dynamic_scale <= 2.0:
            raise ParameterError(f"dynamic_scale is {self.dynamic_scale}.", "Use 0.5 to 2.0; 1.0 is natural.")

    @property
    def step_count(self) -> int:
        return self.steps or (FAST_STEPS if "schedule" in self.speedups else STEPS)


def options_of(mode: Mode, **more: Any) -> SonicOptions:
    """`exact`: the published algorithm; `fast`: every speed-up, unless some are named."""
    if mode not in ("exact", "fast"):
        raise ParameterError(f"There is no mode {mode!r}.", "Choose exact or fast.")
    named = tuple(more.pop("speedups", ()) or ())
    if mode == "exact" and named:
        raise ParameterError(f"mode=exact has no speed-ups, and {', '.join(named)} was given.", "Use mode=fast.")
    return SonicOptions(speedups=named or (SPEEDUPS if mode == "fast" else ()), **more)
