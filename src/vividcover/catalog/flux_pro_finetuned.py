"""`black-forest-labs/flux-pro-finetuned` and its siblings: a prompt and a `finetune_id` in, a picture out.

On this machine a finetune_id is the name or path of a trained image model. BFL's API has five endpoints of this kind;
what a control picture or a mask can mean to an engine without a diffusion network stands with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vividcover import provenance
from vividcover.catalog import drawing, loras
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, uri, validated
from vividcover.catalog.flux_lora import NO_NETWORK, SIZES, FluxLora, FluxLoraInput, size_of
from vividcover.catalog.pictures import GRID, LARGEST, SMALLEST, filled, fitting, opened, where
from vividcover.catalog.pins import PINS
from vividcover.errors import ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult

if TYPE_CHECKING:
    pass

NAME = "black-forest-labs/flux-pro-finetuned"
ULTRA = "black-forest-labs/flux-1.1-pro-ultra-finetuned"
Ratio = Literal["custom", "1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]
Format = Literal["jpg", "png", "webp"]
Text = Literal["file", "files", "text", "stream"]
NO_SHAPES = "the classic engine takes the size of a control picture, not its shapes"
NO_SAFETY = "the classic engine shows only what is in the photos; there is nothing to check"
IGNORES = {
    "image_prompt": "the classic engine composes a scene from words; it takes no picture as a prompt",
    "image_prompt_strength": "the classic engine takes no picture as a prompt",
    "prompt_upsampling": "the classic engine reads the prompt as it is", "steps": NO_NETWORK, "guidance": NO_NETWORK,
    "safety_tolerance": NO_SAFETY, "raw": NO_NETWORK,
    "control_image": NO_SHAPES, "preprocessed_image": NO_SHAPES, "canny_low_threshold": NO_SHAPES,
    "canny_high_threshold": NO_SHAPES,
}  # fmt: skip
PROMPT = "What to show; use the trigger word for the subject."
FINETUNE = "The trained image model: on a server a finetune_id, here a name or path."


def _strength(default: float = 1.0) -> Any:
    return Field(default=default, ge=0, le=2, description="How strongly the trained model is applied.")


def _seed() -> Any:
    return Field(default=None, ge=0, le=2**63 - 1, description="Random seed; given back when drawn.")


def _tolerance() -> Any:
    return Field(default=2, ge=0, le=6, description="0 is most strict, 6 is most permissive.")


def _ignores(schema: type[Inputs]) -> dict[str, dict[str, str]]:
    return {"classic": {key: why for key, why in IGNORES.items() if key in schema.model_fields}}


class FluxProFinetunedInput(Inputs):
    prompt: str = Field(min_length=1, max_length=2000, description=PROMPT)
    finetune_id: str = Field(min_length=1, max_length=1000, description=FINETUNE)
    finetune_strength: float = _strength()
    image_prompt: str | None = uri("A picture that guides the composition.", required=False)
    aspect_ratio: Ratio = Field(default="1:1", description="Aspect ratio; custom uses width and height.")
    width: int | None = Field(default=None, ge=256, le=1440, description="px, with aspect_ratio custom; rounded to 32.")
    height: int | None = Field(
        default=None, ge=256, le=1440, description="px, with aspect_ratio custom; rounded to 32."
    )
    prompt_upsampling: bool = Field(default=False, description="Change the prompt for more variety.")
    steps: int = Field(default=40, ge=1, le=50, description="Diffusion steps.")
    guidance: float = Field(default=3, ge=2, le=5, description="How closely to follow the prompt.")
    safety_tolerance: int = _tolerance()
    seed: int | None = _seed()
    output_format: Format = Field(default="jpg", description="Format of the picture.")


class FluxProUltraFinetunedInput(Inputs):
    prompt: str = Field(min_length=1, max_length=2000, description=PROMPT)
    finetune_id: str = Field(min_length=1, max_length=1000, description=FINETUNE)
    finetune_strength: float = _strength()
    image_prompt: str | None = uri("A picture that guides the composition.", required=False)
    image_prompt_strength: float = Field(default=0.1, ge=0, le=1, description="How much it guides.")
    aspect_ratio: Ratio = Field(default="1:1", description="Aspect ratio.")
    prompt_upsampling: bool = Field(default=False, description="Change the prompt for more variety.")
    safety_tolerance: int = _tolerance()
    seed: int | None = _seed()
    raw: bool = Field(default=False, description="Less processed pictures.")
    output_format: Format = Field(default="jpg", description="Format of the picture.")


class FluxProControlInput(Inputs):
    prompt: str = Field(min_length=1, max_length=2000, description=PROMPT)
    finetune_id: str = Field(min_length=1, max_length=1000, description=FINETUNE)
    control_image: str = uri("The picture whose depth or edges to follow.")
    finetune_strength: float = _strength()
    prompt_upsampling: bool = Field(default=False, description="Change the prompt for more variety.")
    steps: int = Field(default=50, ge=15, le=50, description="Diffusion steps.")
    guidance: float = Field(default=15, ge=1, le=100, description="How closely to follow the prompt.")
    safety_tolerance: int = _tolerance()
    seed: int | None = _seed()
    output_format: Format = Field(default="jpg", description="Format of the picture.")


class FluxProCannyInput(FluxProControlInput):
    guidance: float = Field(default=30, ge=1, le=100, description="How closely to follow the prompt.")
    preprocessed_image: str | None = uri("Edges found already, white on black, to take as they are.", required=False)
    canny_low_threshold: int = Field(default=50, ge=0, le=500, description="Below it nothing is an edge.")
    canny_high_threshold: int = Field(default=200, ge=0, le=500, description="Above it everything is one.")


class FluxProFillInput(Inputs):
    prompt: str = Field(min_length=1, max_length=2000, description=PROMPT)
    finetune_id: str = Field(min_length=1, max_length=1000, description=FINETUNE)
    image: str = uri("The picture to change; with transparency, that is the mask.")
    mask: str | None = uri("White where the picture is to be made anew, black where it stays.", required=False)
    finetune_strength: float = _strength()
    prompt_upsampling: bool = Field(default=False, description="Change the prompt for more variety.")
    steps: int = Field(default=50, ge=15, le=50, description="Diffusion steps.")
    guidance: float = Field(default=60, ge=1.5, le=100, description="How closely to follow the prompt.")
    safety_tolerance: int = _tolerance()
    seed: int | None = _seed()
    output_format: Format = Field(default="jpg", description="Format of the picture.")


class Finetuned(Model):
    """What all five have in common: a finetune_id, and FLUX with it where the neural engine draws."""

    base: ClassVar[drawing.Kind] = "dev"
    together: ClassVar[str] = LARGE

    def reader(self, input: Any, context: Context) -> tuple[str, str] | None:
        return loras.engine_of(input.finetune_id, context)

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        redux = bool(getattr(input, "image_prompt", None))
        depth = self.base == "depth"
        return drawing.lacks(settings, drawing.needed(settings, self.base, redux=redux, depth=depth))

    def wish(self, input: Any, size: tuple[int, int], context: Context, **more: Any) -> drawing.Wish:
        """What the inputs that all five have ask for; `more` are further fields of the wish."""
        if prompt := getattr(input, "image_prompt", None):
            more["redux"] = context.file("image_prompt", prompt)
        numbers = {"tolerance": input.safety_tolerance} | more.pop("numbers", {})
        worn = drawing.Worn(loras.lora(input.finetune_id, context), input.finetune_strength)
        return drawing.Wish(
            self.base, input.prompt, input.seed, *size, steps=getattr(input, "steps", None),
            guidance=getattr(input, "guidance", None), loras=(worn,), more=numbers,
            upsampling=input.prompt_upsampling, format=input.output_format, **more,
        )  # fmt: skip

    def drawn(self, wish: drawing.Wish, context: Context) -> Made:
        done = drawing.drawn(self.name, wish, context)
        return Made(done.path(done.meta["file"]), {"stills": [done.meta["report"]]})


class _OnBfl(Finetuned):
    """One that BFL's API has too: there with a key for it, else on Replicate."""

    def hosted_at(self, settings: Settings) -> str:
        return settings.bfl_url if settings.bfl_key else super().hosted_at(settings)


class FluxProFinetuned(_OnBfl):
    name: ClassVar[str] = NAME
    description: ClassVar[str] = "A picture from a trained image model, named by its finetune_id."
    Input: ClassVar[type[Inputs]] = FluxProFinetunedInput
    output: ClassVar[Text] = "file"
    pinned: ClassVar[str] = PINS[NAME][-1]
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = _ignores(FluxProFinetunedInput)

    def hosted(self, input: FluxProFinetunedInput, context: Context) -> Made:
        if not context.settings.bfl_key:
            return super().hosted(input, context)
        same = ("steps", "guidance")
        width, height = input.width or 1024, input.height or 1024
        if input.aspect_ratio != "custom":
            width, height = SIZES[input.aspect_ratio]
        sides = {"width": _grid(width), "height": _grid(height)}
        return on_bfl(self, "flux-pro-finetuned", input, sides | {k: getattr(input, k) for k in same}, context)

    def neural(self, input: FluxProFinetunedInput, context: Context) -> Made:
        return self.drawn(self.wish(input, self.size(input), context), context)

    def size(self, input: FluxProFinetunedInput) -> tuple[int, int]:
        """(width, height) in px, multiples of 32."""
        if input.aspect_ratio != "custom":
            return SIZES[input.aspect_ratio]
        if input.width is None or input.height is None:
            raise ParameterError("aspect_ratio=custom needs width and height.", "Give both, from 256 to 1440.")
        return _grid(input.width), _grid(input.height)

    def classic(self, input: FluxProFinetunedInput, context: Context) -> Made:
        custom = {"width": input.width, "height": input.height} if input.aspect_ratio == "custom" else {}
        sizes = {key: round(value / GRID) * GRID for key, value in custom.items() if value}
        still = draw(self.name, input, context, aspect_ratio=input.aspect_ratio, **sizes)
        return Made(still.path(still.meta["file"]), {"stills": [still.meta["report"]]})


class FluxProUltraFinetuned(_OnBfl):
    name: ClassVar[str] = ULTRA
    description: ClassVar[str] = "The same with the inputs of FLUX1.1 [pro] ultra."
    Input: ClassVar[type[Inputs]] = FluxProUltraFinetunedInput
    output: ClassVar[Text] = "file"
    pinned: ClassVar[str] = PINS[ULTRA][-1]
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = _ignores(FluxProUltraFinetunedInput)

    def hosted(self, input: FluxProUltraFinetunedInput, context: Context) -> Made:
        if not context.settings.bfl_key:
            return super().hosted(input, context)
        extra = {"aspect_ratio": input.aspect_ratio, "image_prompt_strength": input.image_prompt_strength}
        return on_bfl(self, "flux-pro-1.1-ultra-finetuned", input, extra, context)

    def neural(self, input: FluxProUltraFinetunedInput, context: Context) -> Made:
        """About four megapixels, as the published model's pictures have."""
        from vividcover.image.flux.request import ultra_size

        numbers = {"redux_strength": input.image_prompt_strength, "raw": input.raw}
        return self.drawn(self.wish(input, ultra_size(input.aspect_ratio), context, numbers=numbers), context)

    def classic(self, input: FluxProUltraFinetunedInput, context: Context) -> Made:
        still = draw(self.name, input, context, aspect_ratio=input.aspect_ratio)
        return Made(still.path(still.meta["file"]), {"stills": [still.meta["report"]]})


class FluxProControl(Finetuned):
    """Depth and canny: what their control picture is to the classic engine is a size."""

    Input: ClassVar[type[Inputs]] = FluxProControlInput
    output: ClassVar[Text] = "file"
    is_hosted: ClassVar[bool] = False  # neither place offers them any more
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = _ignores(FluxProControlInput)

    def neural(self, input: FluxProControlInput, context: Context) -> Made:
        numbers: dict[str, Any] = {}
        picture = context.file("control_image", input.control_image)
        if isinstance(input, FluxProCannyInput):
            if input.preprocessed_image:
                picture, numbers["preprocessed"] = context.file("preprocessed_image", input.preprocessed_image), True
            numbers |= {"canny_low": input.canny_low_threshold, "canny_high": input.canny_high_threshold}
        size = fitting(*opened(picture).size)
        return self.drawn(self.wish(input, size, context, control=picture, numbers=numbers), context)

    def classic(self, input: FluxProControlInput, context: Context) -> Made:
        picture = context.file("control_image", input.control_image)
        width, height = fitting(*opened(picture).size)
        still = draw(self.name, input, context, aspect_ratio="custom", width=width, height=height)
        return Made(still.path(still.meta["file"]), {"stills": [still.meta["report"]]})


class FluxProDepthFinetuned(FluxProControl):
    name: ClassVar[str] = "black-forest-labs/flux-pro-1.0-depth-finetuned"
    base: ClassVar[drawing.Kind] = "depth"
    description: ClassVar[str] = "The same with a picture whose depth is followed, on engines that can."


class FluxProCannyFinetuned(FluxProControl):
    Input: ClassVar[type[Inputs]] = FluxProCannyInput
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = _ignores(FluxProCannyInput)
    name: ClassVar[str] = "black-forest-labs/flux-pro-1.0-canny-finetuned"
    base: ClassVar[drawing.Kind] = "canny"
    description: ClassVar[str] = "The same with a picture whose edges are followed, on engines that can."


class FluxProFillFinetuned(Finetuned):
    name: ClassVar[str] = "black-forest-labs/flux-pro-1.0-fill-finetuned"
    description: ClassVar[str] = "Part of a picture made anew from a trained image model."
    base: ClassVar[drawing.Kind] = "fill"
    Input: ClassVar[type[Inputs]] = FluxProFillInput
    output: ClassVar[Text] = "file"
    is_hosted: ClassVar[bool] = False
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = _ignores(FluxProFillInput)

    def neural(self, input: FluxProFillInput, context: Context) -> Made:
        picture, mask = self._given(input, context)
        size = fitting(*opened(picture).size)
        plain = input.model_copy(update={"output_format": "png"})
        wish = self.wish(plain, size, context, image=picture, mask=self._mask(picture, mask, context))
        return self._filled(input, picture, mask, drawing.drawn(self.name, wish, context), context, "neural")

    def classic(self, input: FluxProFillInput, context: Context) -> Made:
        """A scene of the picture's size shows through the mask."""
        picture, mask = self._given(input, context)
        width, height = fitting(*opened(picture).size)
        plain = input.model_copy(update={"output_format": "png"})
        scene = draw(self.name, plain, context, aspect_ratio="custom", width=width, height=height)
        return self._filled(input, picture, mask, scene, context, "classic")

    def _given(self, input: FluxProFillInput, context: Context) -> tuple[Path, Path | None]:
        return context.file("image", input.image), context.file("mask", input.mask) if input.mask else None

    def _mask(self, picture: Path, mask: Path | None, context: Context) -> Path:
        """The mask as a file of its own, also where it is the picture's transparency."""

        def compute(stage: Stage) -> None:
            where(opened(picture), mask).save(stage.folder / "mask.png")

        inputs = {"picture": picture} | ({"mask": mask} if mask else {})
        return context.stage("image/mask", version=1, inputs=inputs, params={}, compute=compute).path("mask.png")

    def _filled(
        self, input: FluxProFillInput, picture: Path, mask: Path | None, scene: StageResult, context: Context,
        engine: str,
    ) -> Made:  # fmt: skip
        """What was drawn, inside the picture: what the mask leaves alone stays as it is, at the picture's own size."""
        file = f"filled.{input.output_format}"

        def compute(stage: Stage) -> None:
            provenance.save_picture(
                filled(picture, mask, scene.path(scene.meta["file"])), stage.folder / file, format=input.output_format,
                quality=90, engine=engine, description=f"{self.name}, {engine} engine, seed {input.seed}.",
            )  # fmt: skip

        inputs = {"scene": scene.path(scene.meta["file"]), "picture": picture} | ({"mask": mask} if mask else {})
        params = {"format": input.output_format, "seed": input.seed, "engine": engine}
        done = context.stage("image/fill", version=2, inputs=inputs, params=params, compute=compute)
        return Made(done.path(file), {"stills": [scene.meta["report"]]})


def on_bfl(model: Model, endpoint: str, input: Any, extra: Mapping[str, Any], context: Context) -> Made:
    """A picture from BFL's API. Its pictures are jpeg or png; another format is written from the png."""
    from vividcover.catalog import remote, remote_bfl

    values = {
        "finetune_id": input.finetune_id, "finetune_strength": input.finetune_strength, "prompt": input.prompt,
        "prompt_upsampling": input.prompt_upsampling, "seed": input.seed, "safety_tolerance": input.safety_tolerance,
        "output_format": "jpeg" if input.output_format == "jpg" else "png", **extra,
    }  # fmt: skip
    files = {"image_prompt": context.file("image_prompt", input.image_prompt)} if input.image_prompt else {}
    if input.output_format == "webp":
        context.cannot("output_format", "webp", "BFL gives jpeg or png; it is a png")
    return remote.made(
        model, remote.marked(model, remote_bfl.pictured(endpoint, values, files, context), context, input.seed)
    )


def _grid(side: int) -> int:
    return min(max(round(side / GRID) * GRID, SMALLEST), LARGEST)


def draw(name: str, input: Any, context: Context, **size: Any) -> StageResult:
    """One still of the trained model behind `finetune_id`."""
    values = {
        "prompt": input.prompt, "replicate_weights": input.finetune_id, "seed": input.seed,
        "lora_scale": input.finetune_strength, "output_format": input.output_format, **size,
    }  # fmt: skip
    wanted: FluxLoraInput = validated(name, FluxLoraInput, values)
    width, height = size_of(wanted)
    return FluxLora().still(wanted, input.seed, width, height, context)
