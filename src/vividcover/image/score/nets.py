"""CLIP and DINO: does a picture show what the prompt says, and is it like given photographs?

The three scores are those of the DreamBooth paper (Ruiz et al. 2023, arXiv:2208.12242, section 4.1): CLIP-T is the
cosine between a picture's and its prompt's embedding, CLIP-I and DINO the mean cosine between a picture's embedding
and those of real photographs of the subject; ViT-B/32 and ViT-S/16. There, real photographs reach CLIP-I .885 and
DINO .774, the paper's own method .803, .668 and CLIP-T .305.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import WeightsError
from vividcover.image.flux.folders import AGAIN, processor_of, quietly, strictly
from vividcover.image.score.panel import Rgb
from vividcover.tensors import pick_device, require

if TYPE_CHECKING:
    import torch

Features = NDArray[np.float32]  # [B, D], of length 1 each
WORDS = 77  # tokens that CLIP reads of a prompt; the rest does not count


class Clip:
    """A CLIP folder (config, weights, tokenizer, preprocessor). Raises `WeightsError` where a part is missing."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self.device = device
        self.net = strictly(CLIPModel, folder, "CLIP").to(device)
        self.prepare = processor_of("CLIPImageProcessor", folder)
        self.words = _tokenizer(CLIPTokenizer, folder, self.net.config.text_config.vocab_size)

    def pictures(self, pictures: Sequence[Rgb]) -> Features:
        import torch

        with torch.inference_mode():
            pixels = self.prepare(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.device)
            seen = self.net.visual_projection(self.net.vision_model(pixel_values=pixels).pooler_output)
        return _unit(seen)

    def texts(self, texts: Sequence[str]) -> Features:
        import torch

        with torch.inference_mode():
            read = self.words(
                list(texts), padding=True, truncation=True, max_length=WORDS, return_tensors="pt"
            ).to(self.device)  # fmt: skip
            said = self.net.text_projection(self.net.text_model(**read).pooler_output)
        return _unit(said)


class Dino:
    """A folder with a ViT trained by DINO; its class token is the embedding."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import ViTModel

        self.device = device
        # published without the pooling layer that the class would add
        self.net = strictly(ViTModel, folder, "DINO", add_pooling_layer=False).to(device)
        self.prepare = processor_of("ViTImageProcessor", folder)

    def pictures(self, pictures: Sequence[Rgb]) -> Features:
        import torch

        with torch.inference_mode():
            pixels = self.prepare(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.device)
            seen = self.net(pixel_values=pixels).last_hidden_state[:, 0]
        return _unit(seen)


@lru_cache(maxsize=1)
def clip(folder: Path, device: str = "auto") -> Clip:
    """CLIP-T and CLIP-I share one."""
    require()
    return Clip(folder, pick_device(device))


@lru_cache(maxsize=1)
def dino(folder: Path, device: str = "auto") -> Dino:
    require()
    return Dino(folder, pick_device(device))


class PromptFit:
    """CLIP-T: does the picture show what was asked for?"""

    name, meaning = "clip-t", "fit to the prompt (CLIP ViT-B/32, cosine)"
    low, high = 0.18, 0.36  # a foreign prompt's; a plain description of a photograph

    def __init__(self, clip: Clip, trigger: str = "", noun: str = "") -> None:
        """`trigger` is read as `noun` ("person"), as the paper does: CLIP does not know the word."""
        self.clip, self.trigger, self.noun = clip, trigger, noun

    def scores(self, pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[float]:
        told = [plain(prompt, self.trigger, self.noun) for prompt in prompts]
        return [float(c) for c in (self.clip.pictures(pictures) * self.clip.texts(told)).sum(1)]


def plain(prompt: str, trigger: str, noun: str = "") -> str:
    """The prompt as somebody says it who has not heard of the trigger word: "in the style of VIVI" goes too."""
    if not trigger:
        return prompt
    word = rf"(?<!\w){re.escape(trigger)}(?!\w)"
    without = re.sub(rf"\s*,?\s*\bin the style of {word}", "", prompt)
    described = re.sub(rf"{word}\s*,\s*(?=an?\s)", "", without)  # "VIVI, a woman in her 40s, …" says it already
    named = re.sub(word, noun, described)
    return re.sub(r"\s+([,.])", r"\1", " ".join(named.split())).strip(" ,") or prompt


class _ToPhotos:
    """Mean cosine to photographs of the subject."""

    name, meaning, low, high = "", "", 0.0, 1.0

    def __init__(self, net: Any, references: Sequence[Rgb]) -> None:
        self.net = net
        self.known = np.concatenate([net.pictures([photo]) for photo in references])  # [R, D]

    def scores(self, pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[float]:
        return [float(c) for c in (self.net.pictures(pictures) @ self.known.T).mean(1)]


class ClipLikeness(_ToPhotos):
    name, meaning = "clip-i", "likeness to the photographs (CLIP ViT-B/32, mean cosine)"
    low, high = 0.5, 0.885


class DinoLikeness(_ToPhotos):
    name, meaning = "dino", "likeness of the subject to the photographs (DINO ViT-S/16, mean cosine)"
    low, high = 0.2, 0.774


def _unit(features: Any) -> Features:
    plain: Features = features.float().cpu().numpy()
    length: Features = np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-12).astype(np.float32)
    return np.asarray(plain / length, np.float32)


def _tokenizer(kind: Any, folder: Path, size: int) -> Any:
    """Words to numbers, `size` of them: where files lack, the library makes an empty one and says nothing."""
    try:
        with quietly():
            words = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library's readers fail in many ways
        raise WeightsError(f"{folder.name} has no tokenizer that can be read.", AGAIN) from error
    if len(words) != size:
        raise WeightsError(f"The tokenizer of {folder.name} knows {len(words)} words, not {size}.", AGAIN)
    return words
