"""What BFL's fine-tuning API takes and gives, and how it maps onto the catalog.

Fields, defaults and ranges as docs.bfl.ai had them. The pictures' models are the catalog's `…-finetuned`; what their
inputs cannot hold is brought into range here (BFL's guidance begins at 1.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from vividcover.catalog.flux_lora import SIZES
from vividcover.server.bodies import Body
from vividcover.server.models import Address

TRAINER = "black-forest-labs/flux-pro-trainer"
RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
WIDEST = 21 / 9
Base64 = Annotated[str, StringConstraints(min_length=1, max_length=160 << 20, pattern=r"^[A-Za-z0-9+/=_\-\s:;,.]*$")]


def _ratio(text: str) -> str:
    found = RATIO.fullmatch(text)
    if not found or not 1 / WIDEST - 1e-6 <= int(found[1]) / int(found[2]) <= WIDEST + 1e-6:
        raise ValueError("is not a ratio between 21:9 and 9:21")
    return text


def _grid(size: int) -> int:
    if size % 32:
        raise ValueError("is not a multiple of 32")
    return size


Side = Annotated[int, Field(ge=256, le=1440), AfterValidator(_grid)]
Ratio = Annotated[str, AfterValidator(_ratio)]
Prompt = Annotated[str, StringConstraints(max_length=2000)]


class Hooked(Body):
    """What every order may bring."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    webhook_url: Annotated[Address, StringConstraints(min_length=1, max_length=2083)] | None = None
    """Link that is told when it is done."""
    webhook_secret: Annotated[str, StringConstraints(max_length=500)] | None = None
    """What the message is signed with."""


class Finetune(Hooked):
    """A training on 1 to 20 pictures."""

    file_data: Base64
    """A zip of pictures, and captions in .txt files beside them, in base64."""
    finetune_comment: Annotated[str, StringConstraints(max_length=500)]
    """What to call it."""
    mode: Literal["general", "character", "style", "product"]
    """What the pictures show."""
    trigger_word: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^\S+$")] = "TOK"
    """The word that stands for it."""
    iterations: int = Field(default=300, ge=100, le=1000)
    """Training steps."""
    learning_rate: float | None = Field(default=None, ge=1e-6, le=5e-3)
    """Size of a step; 1e-5 for full, 1e-4 for lora when it is not given."""
    captioning: bool = True
    """Write captions for pictures that have none."""
    priority: Literal["speed", "quality", "high_res_only"] = "quality"
    """What matters more."""
    finetune_type: Literal["full", "lora"] = "full"
    """What is trained."""
    lora_rank: Literal[16, 32] = 32
    """Rank of the LoRA."""

    def inputs(self, link: str) -> dict[str, Any]:
        """The inputs of the catalog's trainer; what was not given is left to its defaults."""
        given = self.model_fields_set
        values = {
            "input_images": link, "mode": self.mode, "trigger_word": self.trigger_word,
            "finetune_comment": self.finetune_comment,
        }  # fmt: skip
        same = ("iterations", "learning_rate", "priority", "finetune_type", "lora_rank")
        values |= {key: getattr(self, key) for key in same if key in given and getattr(self, key) is not None}
        if "captioning" in given:
            values["captioning"] = "captioning-enabled" if self.captioning else "captioning-disabled"
        return values


class Picture(Hooked):
    """What the five kinds of order for a picture share."""

    serves: ClassVar[str]
    finetune_id: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    """Which fine-tune."""
    prompt: Prompt = ""
    """What to show."""
    prompt_upsampling: bool = False
    """Change the prompt for more variety."""
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    """For the same picture again."""
    safety_tolerance: int = Field(default=2, ge=0, le=6)
    """0 is most strict, 6 is least."""
    output_format: Literal["jpeg", "png"] = "jpeg"
    """Format of the picture."""

    def inputs(self, trigger_word: str) -> dict[str, Any]:
        """The inputs of the catalog's model; what was not given is left to its defaults."""
        given = self.model_fields_set
        values: dict[str, Any] = {
            "prompt": self.prompt.strip() or trigger_word, "finetune_id": self.finetune_id,
            "finetune_strength": getattr(self, "finetune_strength", 1.0),
            "output_format": "jpg" if self.output_format == "jpeg" else self.output_format,
        }  # fmt: skip
        if "safety_tolerance" in given:
            values["safety_tolerance"] = self.safety_tolerance
        same = ("prompt_upsampling", "seed", "steps", "guidance", "image_prompt_strength")
        for key in (*same, "canny_low_threshold", "canny_high_threshold"):
            if key in given and getattr(self, key, None) is not None:
                values[key] = getattr(self, key)
        for key in ("image_prompt", "control_image", "preprocessed_image", "image", "mask"):
            if getattr(self, key, None):
                values[key] = as_link(getattr(self, key))
        return values


class ProFinetuned(Picture):
    """A picture of FLUX.1 [pro] with a fine-tune."""

    serves: ClassVar[str] = "black-forest-labs/flux-pro-finetuned"
    finetune_strength: float = Field(default=1.1, ge=0, le=2)
    """How strongly the fine-tune is applied."""
    steps: int = Field(default=40, ge=1, le=50)
    """Diffusion steps."""
    guidance: float = Field(default=2.5, ge=1.5, le=5)
    """How closely to follow the prompt."""
    image_prompt: Base64 | None = None
    """A picture that guides the composition, in base64."""
    width: Side = 1024
    """px, a multiple of 32."""
    height: Side = 768
    """px, a multiple of 32."""

    def inputs(self, trigger_word: str) -> dict[str, Any]:
        values = super().inputs(trigger_word) | {"aspect_ratio": "custom", "width": self.width, "height": self.height}
        return values | ({"guidance": max(2.0, self.guidance)} if "guidance" in self.model_fields_set else {})


class UltraFinetuned(Picture):
    """A picture of FLUX1.1 [pro] ultra with a fine-tune."""

    serves: ClassVar[str] = "black-forest-labs/flux-1.1-pro-ultra-finetuned"
    finetune_strength: float = Field(default=1.2, ge=0, le=2)
    """How strongly the fine-tune is applied."""
    aspect_ratio: Ratio = "16:9"
    """From 21:9 to 9:21."""
    image_prompt: Base64 | None = None
    """A picture that guides the composition, in base64."""
    image_prompt_strength: float = Field(default=0.1, ge=0, le=1)
    """How much it guides."""

    def inputs(self, trigger_word: str) -> dict[str, Any]:
        return super().inputs(trigger_word) | {"aspect_ratio": nearest(self.aspect_ratio)}


class _Controlled(Picture):
    finetune_strength: float = Field(default=1.1, ge=0, le=2)
    """How strongly the fine-tune is applied."""
    control_image: Base64
    """The picture to follow, in base64."""
    steps: int = Field(default=50, ge=15, le=50)
    """Diffusion steps."""
    guidance: float = Field(default=15, ge=1, le=100)
    """How closely to follow the prompt."""


class DepthFinetuned(_Controlled):
    """A picture that follows the depth of another, with a fine-tune."""

    serves: ClassVar[str] = "black-forest-labs/flux-pro-1.0-depth-finetuned"


class CannyFinetuned(_Controlled):
    """A picture that follows the edges of another, with a fine-tune."""

    serves: ClassVar[str] = "black-forest-labs/flux-pro-1.0-canny-finetuned"
    guidance: float = Field(default=30, ge=1, le=100)
    """How closely to follow the prompt."""
    preprocessed_image: Base64 | None = None
    """Edges found already, in base64, instead of finding them."""
    canny_low_threshold: int = Field(default=50, ge=0, le=500)
    """Below it nothing is an edge."""
    canny_high_threshold: int = Field(default=200, ge=0, le=500)
    """Above it everything is one."""


class FillFinetuned(Picture):
    """A part of a picture made anew, with a fine-tune."""

    serves: ClassVar[str] = "black-forest-labs/flux-pro-1.0-fill-finetuned"
    finetune_strength: float = Field(default=1.1, ge=0, le=2)
    """How strongly the fine-tune is applied."""
    image: Base64
    """The picture, in base64; with transparency, that is the mask."""
    mask: Base64 | None = None
    """White where it is to be made anew, in base64."""
    steps: int = Field(default=50, ge=15, le=50)
    """Diffusion steps."""
    guidance: float = Field(default=60, ge=1.5, le=100)
    """How closely to follow the prompt."""


class Deletion(Body):
    """Which fine-tune is to go."""

    finetune_id: Annotated[str, StringConstraints(min_length=1, max_length=300)]


def as_link(data: str) -> str:
    """Base64 as a data: link; one that is a link already stays."""
    return data if data.startswith(("data:", "http://", "https://")) else f"data:application/octet-stream;base64,{data}"


def nearest(ratio: str) -> str:
    """The ratio that can be drawn next to a wanted one."""
    if ratio in SIZES:
        return ratio
    wide, _, high = ratio.partition(":")
    wanted = int(wide) / int(high)

    def off(size: tuple[str, tuple[int, int]]) -> float:
        real = size[1][0] / size[1][1]
        return max(real / wanted, wanted / real)

    return min(SIZES.items(), key=off)[0]


PICTURES: Mapping[str, type[Picture]] = {
    "flux-pro-finetuned": ProFinetuned, "flux-pro-1.1-ultra-finetuned": UltraFinetuned,
    "flux-pro-1.0-depth-finetuned": DepthFinetuned, "flux-pro-1.0-canny-finetuned": CannyFinetuned,
    "flux-pro-1.0-fill-finetuned": FillFinetuned,
}  # fmt: skip
