"""A tiny random FLUX in the published files' layout, and photos to train it on: the test bed of the neural image.

    folder = tiny_flux_folder()                 # built once by diffusers and transformers, then shared by all tests
    photos = tiny_photos(tmp_path / "photos", 4)

It has all parts of the real one, from tokenizers to the autoencoder, and the real one's channels: 16 of the latent, 64
of a token. Stock `FluxPipeline.from_pretrained(folder)` opens it. All weights are random, from the seed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import string
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

WIDTH = 32  # of the transformer, T5 and CLIP
DOUBLE, SINGLE, HEADS, HEAD_DIM = 2, 3, 2, 16
PIPELINES = {64: "FluxPipeline", 384: "FluxFillPipeline", 128: "FluxControlPipeline"}
WORDS = ("a", "photo", "of", "TOK", "vivi", "man", "woman", "dog", "cat", "singing", "on", "stage", "at", "night")


@functools.cache
def tiny_flux_folder(guidance: bool = True, in_channels: int = 64, seed: int = 0) -> Path:
    """The same as `tiny_flux`, made once on this machine for this text of the recipe. Do not change what is in it."""
    versions = f"{version('diffusers')} {version('transformers')}"
    recipe = Path(__file__).read_bytes() + versions.encode()
    name = f"{hashlib.sha256(recipe).hexdigest()[:12]}-{guidance:d}-{in_channels}-{seed}"
    shelf = Path(tempfile.gettempdir()) / f"vividcover-tiny-flux-{os.getuid()}"
    shelf.mkdir(mode=0o700, exist_ok=True)
    if not (shelf / name / "model_index.json").is_file():
        part = Path(tempfile.mkdtemp(dir=shelf))
        tiny_flux(part, guidance, in_channels, seed)
        try:
            part.rename(shelf / name)
        except OSError:  # another worker was first
            shutil.rmtree(part)
    return shelf / name


def tiny_flux(folder: Path, guidance: bool = True, in_channels: int = 64, seed: int = 0) -> Path:
    """A FLUX of 0.1 million numbers. `guidance`: dev, else schnell; 384 channels in: fill; 128: canny and depth."""
    import diffusers
    import torch

    pipeline = getattr(diffusers, PIPELINES[in_channels])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, *clip = _clip(folder)
        _, *t5 = _t5(folder)
        parts: dict[str, Any] = {
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
                shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance
            ),
            "text_encoder": clip[0], "tokenizer": clip[1], "text_encoder_2": t5[0], "tokenizer_2": t5[1],
            "vae": tiny_vae(), "transformer": tiny_transformer(guidance, in_channels),
        }  # fmt: skip
        pipeline(**parts).save_pretrained(str(folder))
    return folder


def tiny_transformer(guidance: bool = True, in_channels: int = 64) -> Any:
    """Random, with norms and biases that are not what they are before any training."""
    import torch
    from diffusers import FluxTransformer2DModel

    net = FluxTransformer2DModel(
        in_channels=in_channels, out_channels=64, num_layers=DOUBLE, num_single_layers=SINGLE,
        attention_head_dim=HEAD_DIM, num_attention_heads=HEADS, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
        guidance_embeds=guidance, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    with torch.no_grad():
        for name, values in net.named_parameters():
            if "norm_" in name and name.endswith(".weight") and values.dim() == 1:
                values.add_(0.2 * torch.randn_like(values))
    return net.eval()


def tiny_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=16, sample_size=64,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
    ).eval()  # fmt: skip


def _clip(folder: Path) -> tuple[Path, Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    place = folder / "tokenizer"
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(place), model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(symbols), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=WIDTH, bos_token_id=len(symbols) - 2, eos_token_id=len(symbols) - 1,
        pad_token_id=len(symbols) - 1,
    )  # fmt: skip
    return place, CLIPTextModel(config).eval(), tokenizer


def _t5(folder: Path) -> tuple[Path, Any, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in WORDS)]
    pieces += [(letter, -6.0) for letter in ["▁", *string.ascii_letters, *string.digits, *string.punctuation]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))  # "<pad>" has to be number 0
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    place = folder / "tokenizer_2"
    place.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(place / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5TokenizerFast", "model_max_length": 512, **named})
    )
    config = T5Config(
        vocab_size=len(pieces), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return place, T5EncoderModel(config).eval(), AutoTokenizer.from_pretrained(str(place))


def tiny_photos(folder: Path, count: int = 4, side: int = 128, captions: bool = False) -> Path:
    """Pictures of one subject, a red ball with a yellow band, before different backgrounds and at different places."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng((7, number))
        ramp = np.linspace(0.5, 1.0, side)[:, None, None]
        background = random.uniform(40, 230, 3) * ramp * np.ones((1, side, 1)) + random.normal(0, 6, (side, side, 3))
        picture = Image.fromarray(background.clip(0, 255).astype(np.uint8))
        radius = side * random.uniform(0.2, 0.3)
        x, y = random.uniform(radius, side - radius, 2)
        pen = ImageDraw.Draw(picture)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(205, 35, 30))
        pen.rectangle((x - radius * 0.9, y - radius * 0.2, x + radius * 0.9, y + radius * 0.2), fill=(240, 215, 60))
        picture.save(folder / f"photo{number}.png")
        if captions:
            (folder / f"photo{number}.txt").write_text(f"a photo of TOK on stage {number}\n")
    return folder
