"""Qwen3-VL (Qwen team 2025): a language model that sees, and does what it is told.

The library's own processor wants a video decoder, which is not needed for photos; so the words around the picture are
put together here, from the model's image processor and tokenizer.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ModelFileError
from vividcover.image.captions.local import AGAIN, finished, open_folder, opened, reading
from vividcover.image.captions.text import Wording, instruction

LONGEST = 200  # tokens
SIDE = 1024  # px: larger photos cost more and say no more
CHAT = "<|im_start|>user\n<|vision_start|>{picture}<|vision_end|>{words}<|im_end|>\n<|im_start|>assistant\n"
PICTURE, END = "<|image_pad|>", "<|im_end|>"


class Qwen:
    """Qwen3-VL from a folder as published (config, preprocessor, tokenizer, sharded safetensors)."""

    name = "qwen3-vl"

    def __init__(self, folder: Path, device: str = "auto", *, longest: int = LONGEST, side: int = SIDE) -> None:
        self.longest, self.side, self.which = longest, side, folder.name
        self._model, self._device = open_folder(folder, "Qwen3VLForConditionalGeneration", self.name, device)
        with reading(folder, self.name):
            self._images: Any = opened("AutoImageProcessor", folder)
            self._tokens: Any = opened("AutoTokenizer", folder)
        self._picture, self._end = (self._tokens.convert_tokens_to_ids(token) for token in (PICTURE, END))
        if self._picture != self._model.config.image_token_id or self._end in (None, self._tokens.unk_token_id):
            raise ModelFileError(f"The tokenizer in {folder} is not that of {self.name}.", AGAIN)
        self._kinds = "mm_token_type_ids" in inspect.signature(self._model.forward).parameters

    def describe(self, rgb: NDArray[Any], wording: Wording) -> str:
        import torch

        inputs = self._inputs(rgb, instruction(wording))
        with torch.inference_mode():
            made = self._model.generate(
                **inputs, max_new_tokens=self.longest, do_sample=False, eos_token_id=self._end, pad_token_id=self._end
            )
        new = made[0, inputs["input_ids"].shape[1] :]
        return finished(str(self._tokens.decode(new, skip_special_tokens=True)))

    def _inputs(self, rgb: NDArray[Any], words: str) -> dict[str, Any]:
        """What the model reads: as many places in the text as the picture has patches, merged two by two."""
        import torch
        from PIL import Image

        scale = self.side / max(rgb.shape[:2])
        if scale < 1:
            rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        picture = self._images(images=[Image.fromarray(rgb)], return_tensors="pt")
        merged = int(picture["image_grid_thw"].prod()) // self._images.merge_size**2
        text = CHAT.format(picture=PICTURE * merged, words=words)
        ids = torch.tensor([self._tokens(text, add_special_tokens=False)["input_ids"]])
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "image_grid_thw": picture["image_grid_thw"],
            "pixel_values": picture["pixel_values"].to(self._model.dtype),
        }
        if self._kinds:  # says which tokens are a picture's, for their places in rows and columns
            inputs["mm_token_type_ids"] = ids.eq(self._picture).to(torch.int32)
        return {name: value.to(self._device) for name, value in inputs.items()}
