"""The model that a FLUX trainer makes: a prompt in, pictures out. Inputs of both published variants are taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vividcover import provenance
from vividcover.catalog import drawing, loras, shelf
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, secret, uri
from vividcover.catalog.pictures import fitting, opened
from vividcover.catalog.steps import face_kit
from vividcover.errors import ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult

SIZES: dict[str, tuple[int, int]] = {  # aspect ratio → (width, height) px, as the published models have them
    "1:1": (1024, 1024), "16:9": (1344, 768), "21:9": (1536, 640), "3:2": (1216, 832), "2:3": (832, 1216),
    "4:5": (896, 1088), "5:4": (1088, 896), "3:4": (896, 1152), "4:3": (1152, 896), "9:16": (768, 1344),
    "9:21": (640, 1536),
}  # fmt: skip
Ratio = Literal["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21", "custom"]

NO_NETWORK = "the classic engine has no diffusion network"
NOTHING_TO_CHECK = "the classic engine shows only what is in the photos; there is nothing to check"
NO_LORA = "the classic engine's image models are no LoRAs of these sites"
ONE_MODEL = "the classic engine uses one image model at a time"
CLASSIC_IGNORES = {
    "image": "the classic engine composes a new scene; it has no image-to-image mode",
    "mask": "the classic engine has no inpainting",
    "num_inference_steps": NO_NETWORK, "model": NO_NETWORK, "guidance_scale": NO_NETWORK,
    "prompt_strength": NO_NETWORK, "go_fast": NO_NETWORK, "hf_api_token": NO_LORA, "civitai_api_token": NO_LORA,
    "extra_lora": ONE_MODEL, "extra_lora_scale": ONE_MODEL,
    "disable_safety_checker": NOTHING_TO_CHECK, "safety_tolerance": NOTHING_TO_CHECK, "more_loras": ONE_MODEL,
    "extra_lora_mask": ONE_MODEL, "lora_mask": "the classic engine puts the person where the scene has room",
    "image_prompt": "the classic engine composes a scene from words; it takes no picture as a prompt",
    "image_prompt_strength": "the classic engine takes no picture as a prompt",
    "prompt_upsampling": "the classic engine reads the prompt as it is", "text_length": NO_NETWORK,
    "block_cache": NO_NETWORK,
}  # fmt: skip


class FluxLoraInput(Inputs):
    prompt: str = Field(
        min_length=1, max_length=2000, description="What to show; use the trigger word for the subject."
    )
    replicate_weights: str | None = uri("The image model: a name, a path or a link.", required=False)
    aspect_ratio: Ratio = Field(default="1:1", description="Aspect ratio; custom uses width and height.")
    width: int | None = Field(
        default=None, ge=256, le=1440, description="px, with aspect_ratio custom; rounded up to 16."
    )
    height: int | None = Field(
        default=None, ge=256, le=1440, description="px, with aspect_ratio custom; rounded up to 16."
    )
    num_outputs: int = Field(default=1, ge=1, le=4, description="Number of pictures; seeds count up.")
    megapixels: Literal["1", "0.25"] = Field(default="1", description="About how many megapixels.")
    lora_scale: float = Field(default=1.0, ge=-1, le=3, description="How strongly the trained model is applied.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Random seed; given back when drawn.")
    output_format: Literal["webp", "jpg", "png"] = Field(default="webp", description="Format of the pictures.")
    output_quality: int = Field(default=90, ge=0, le=100, description="For webp and jpg.")
    image: str | None = uri("Image for image-to-image.", required=False)
    mask: str | None = uri("Mask for inpainting.", required=False)
    model: Literal["dev", "schnell"] = Field(default="dev", description="Which FLUX runs.")
    num_inference_steps: int = Field(default=28, ge=1, le=50, description="Denoising steps.")
    guidance_scale: float = Field(default=3.5, ge=0, le=10, description="Guidance.")
    prompt_strength: float = Field(default=0.8, ge=0, le=1, description="For image-to-image.")
    extra_lora: str | None = Field(default=None, description="A second LoRA.")
    extra_lora_scale: float = Field(default=1.0, ge=-1, le=3, description="How strongly the second LoRA is applied.")
    go_fast: bool = Field(default=False, description="Quantised, faster.")
    lora_weights: str | None = Field(default=None, description="Another name for replicate_weights.")
    hf_api_token: str | None = secret("Token for Hugging Face, for a LoRA there that asks for one.")
    civitai_api_token: str | None = secret("Token for Civitai, likewise.")
    disable_safety_checker: bool = Field(default=False, description="Skip the safety checker.")
    # what follows is not part of the published models
    more_loras: str | None = Field(
        default=None, max_length=2000, description="Further LoRAs with their scales: `NAME@0.8, https://…@0.5`."
    )
    lora_mask: str | None = uri("Where the trained model is applied: white there, black elsewhere.", required=False)
    extra_lora_mask: str | None = uri("Where the second LoRA is applied.", required=False)
    image_prompt: str | None = uri("A picture that guides the composition (FLUX Redux).", required=False)
    image_prompt_strength: float = Field(default=0.5, ge=0, le=1, description="How much it guides.")
    prompt_upsampling: bool = Field(default=False, description="Let the prompt be written out in more detail.")
    safety_tolerance: int = Field(default=2, ge=0, le=6, description="0 is most strict, 6 is most permissive.")
    text_length: Literal[64, 128, 256, 512] | None = Field(
        default=None, description="Text tokens of a prompt; empty: as the LoRA was trained, else 512 (schnell 256)."
    )
    block_cache: float = Field(
        default=0.0, ge=0, le=0.5, description="Skip most of a step that changes less than this; 0.08 is 1.5x as fast."
    )


SCALES = "Use -1 to 3, as in vivi@0.8."
WEIGHTS = ("replicate_weights", "lora_weights", "hf_api_token", "civitai_api_token")
OURS = (
    "more_loras", "lora_mask", "extra_lora_mask", "image_prompt", "image_prompt_strength", "prompt_upsampling",
    "safety_tolerance", "text_length", "block_cache",
)  # fmt: skip


class FluxLora(Model):
    name: ClassVar[str] = "vividcover/flux-lora"
    together: ClassVar[str] = LARGE
    description: ClassVar[str] = "Pictures from a trained image model."
    Input: ClassVar[type[Inputs]] = FluxLoraInput
    output: ClassVar[Literal["file", "files", "text"]] = "files"
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "classic": CLASSIC_IGNORES, "hosted": dict.fromkeys(OURS, "it is not one of the published models' inputs"),
    }  # fmt: skip

    def reader(self, input: FluxLoraInput, context: Context) -> tuple[str, str] | None:
        return loras.engine_of(input.replicate_weights or input.lora_weights, context)

    def neural_lacks(self, settings: Settings, input: FluxLoraInput | None = None, training: bool = False) -> str:
        if input is None:
            return drawing.lacks(settings, drawing.needed(settings))
        redux, checked = bool(input.image_prompt), not input.disable_safety_checker
        return drawing.lacks(settings, drawing.needed(settings, input.model, redux=redux, checked=checked))

    def neural(self, input: FluxLoraInput, context: Context) -> Made:
        done = self.painted(input, context)
        return Made([done.path(name) for name in done.meta["files"]], details={"stills": [done.meta["report"]]})

    def painted(self, input: FluxLoraInput, context: Context) -> StageResult:
        """The pictures by the neural engine, as the stage that made them; meta has `files`, `file` and `report`."""
        assert input.seed is not None  # drawn by Model.run
        if input.mask and not input.image:
            raise ParameterError("There is a mask, and no image that it belongs to.", "Give image, too.")
        image = context.file("image", input.image) if input.image else None
        if image:
            width, height = fitting(*opened(image).size)
            if "aspect_ratio" in input.model_fields_set:
                context.cannot("aspect_ratio", input.aspect_ratio, "the picture to change gives its own")
        else:
            width, height = size_of(input)
        masks = {k: context.file(k, v) for k in ("mask", "lora_mask", "extra_lora_mask") if (v := getattr(input, k))}
        given = input.model_fields_set
        return drawing.drawn(
            self.name,
            drawing.Wish(
                input.model, input.prompt, input.seed, width, height, input.num_outputs,
                steps=input.num_inference_steps if "num_inference_steps" in given or input.model == "dev" else None,
                guidance=input.guidance_scale if input.model == "dev" else None,
                loras=self._loras(input, masks, context), image=image, mask=masks.get("mask"),
                redux=context.file("image_prompt", input.image_prompt) if input.image_prompt else None,
                more={
                    "prompt_strength": input.prompt_strength, "redux_strength": input.image_prompt_strength,
                    "block_cache": input.block_cache, "tolerance": input.safety_tolerance,
                },
                upsampling=input.prompt_upsampling, fast=input.go_fast, checked=not input.disable_safety_checker,
                text_length=input.text_length, format=input.output_format, quality=input.output_quality,
            ),
            context,
        )  # fmt: skip

    def _loras(self, input: FluxLoraInput, masks: Mapping[str, Path], context: Context) -> list[drawing.Worn]:
        """The trained model, the second one, and any more, as they are to be drawn with."""
        first = input.replicate_weights or input.lora_weights
        named = [(first, input.lora_scale, masks.get("lora_mask"))] if first else []
        if input.extra_lora:
            named.append((input.extra_lora, input.extra_lora_scale, masks.get("extra_lora_mask")))
        named += [(reference, scale, None) for reference, scale in several(input.more_loras or "")]
        tokens = (input.hf_api_token or "", input.civitai_api_token or "")
        return [drawing.Worn(loras.lora(one, context, *tokens), scale, mask) for one, scale, mask in named]

    def hosted(self, input: FluxLoraInput, context: Context) -> Made:
        from vividcover.catalog import remote

        trained = shelf.take("image", self._weights(input), context)
        remote.demand_hosted(trained)
        values = {k: v for k, v in remote.values_of(input).items() if k not in (*OURS, *WEIGHTS)}
        values = remote.with_files(input, values, context, self.media)
        done = remote.run(self, values, context, reference=str(trained.card["version"]))
        return remote.made(self, remote.marked(self, done, context, input.seed))

    def classic(self, input: FluxLoraInput, context: Context) -> Made:
        assert input.seed is not None  # drawn by Model.run
        width, height = size_of(input)
        stills = [self.still(input, input.seed + i, width, height, context) for i in range(input.num_outputs)]
        reports = [still.meta["report"] for still in stills]
        return Made([s.path(s.meta["file"]) for s in stills], details={"stills": reports})

    def _weights(self, input: FluxLoraInput) -> str:
        if not (weights := input.replicate_weights or input.lora_weights):
            raise ParameterError("replicate_weights is required.", "Give the name or file of a trained image model.")
        return weights

    def still(self, input: FluxLoraInput, seed: int, width: int, height: int, context: Context) -> StageResult:
        """One picture, as the stage that made it; meta has `file` and `report`."""
        from vividcover.image.classic import generate

        image = shelf.take("image", self._weights(input), context)
        kit = face_kit(context)
        file = f"still.{input.output_format}"

        def compute(stage: Stage) -> None:
            made = generate.generate(
                image.path, input.prompt, seed=seed, width=width, height=height, kit=kit, lora_scale=input.lora_scale,
                reporter=stage,
            )  # fmt: skip
            provenance.save_picture(
                made.rgb, stage.folder / file, format=input.output_format, quality=input.output_quality,
                engine="classic", description=f"{self.name}, classic engine, seed {seed}.",
            )  # fmt: skip
            stage.meta.update(report=made.report, file=file)

        return context.stage(
            "image/still", version=2, inputs={"image": image.path},
            params={
                "prompt": input.prompt, "seed": seed, "width": width, "height": height, "scale": input.lora_scale,
                "format": input.output_format, "quality": input.output_quality,
            },
            compute=compute,
        )  # fmt: skip


def several(text: str, name: str = "more_loras") -> list[tuple[str, float]]:
    """(reference, scale) of each in `NAME@0.8, https://…@0.5`; without a scale it is 1.

    Raises `ParameterError`, which calls the list `name`.
    """
    found = []
    for part in filter(None, (one.strip() for one in text.replace("\n", ",").split(","))):
        reference, at, number = part.rpartition("@")
        try:
            scale = float(number) if at else 1.0
        except ValueError:
            if "/" not in number:  # https://me@host/… has an @, too
                raise ParameterError(f"{name}: the scale {number!r} of {reference!r} is no number.", SCALES) from None
            reference, at, scale = part, "", 1.0
        if not -1 <= scale <= 3:  # refuses NaN, too
            raise ParameterError(f"{name}: the scale {number} of {reference!r} is out of range.", SCALES)
        found.append((reference if at else part, scale))
    return found


def size_of(input: FluxLoraInput) -> tuple[int, int]:
    """(width, height) in px. `megapixels` 0.25 halves both sides."""
    if input.aspect_ratio == "custom":
        if input.width is None or input.height is None:
            raise ParameterError("aspect_ratio=custom needs width and height.", "Give both, from 256 to 1440.")
        return -(-input.width // 16) * 16, -(-input.height // 16) * 16  # up, as the published model does
    width, height = SIZES[input.aspect_ratio]
    half = 2 if input.megapixels == "0.25" else 1
    return width // half, height // half
