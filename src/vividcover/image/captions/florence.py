"""Florence-2 (Xiao et al. 2023, arXiv:2311.06242): a small model that writes a paragraph about a picture.

It cannot be told what to leave out; `compose` takes that out afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vividcover.image.captions.local import finished, open_folder, opened, reading
from vividcover.image.captions.text import Wording

TASK = "<MORE_DETAILED_CAPTION>"
LONGEST = 256  # tokens
BEAMS = 3  # as its makers decode


class Florence:
    """Florence-2 from a folder in the layout of transformers (config, processor, tokenizer, model.safetensors)."""

    name = "florence-2"

    def __init__(self, folder: Path, device: str = "auto", *, longest: int = LONGEST) -> None:
        self.longest, self.which = longest, folder.name
        self._model, self._device = open_folder(folder, "Florence2ForConditionalGeneration", self.name, device)
        with reading(folder, self.name):
            self._processor: Any = opened("AutoProcessor", folder)

    def describe(self, rgb: NDArray[Any], wording: Wording) -> str:
        import torch
        from PIL import Image

        inputs = self._processor(text=TASK, images=Image.fromarray(rgb), return_tensors="pt")
        with torch.inference_mode():
            tokens = self._model.generate(
                input_ids=inputs["input_ids"].to(self._device),
                attention_mask=inputs["attention_mask"].to(self._device),
                pixel_values=inputs["pixel_values"].to(self._device, self._model.dtype),
                max_new_tokens=self.longest,
                num_beams=BEAMS,
                do_sample=False,
            )
        (text,) = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return finished(str(text))
