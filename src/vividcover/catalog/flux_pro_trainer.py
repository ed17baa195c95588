"""`black-forest-labs/flux-pro-trainer`: a zip of photos in, a `finetune_id` out, for `flux-pro-finetuned` to use.

The published model is run, and gives back the id; trained like the other trainers it makes a version of a destination.
On this machine the id is a name on the shelf of image models; on a server it is one of the account's fine-tunes.
Inputs as callers of the published model and of BFL's own API give them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vividcover.catalog import image_learning, shelf
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, uri
from vividcover.catalog.fast_flux_trainer import FastFluxTrainer
from vividcover.catalog.flux_dev_lora_trainer import NO_LORA, NO_WORDS, ONCE, as_fast
from vividcover.settings import Settings

if TYPE_CHECKING:
    from vividcover.image.flux.options import TrainOptions

TRAINED = "trained_model"  # the part that is the trained model's file
Mode = Literal["general", "character", "style", "product"]
RATES = {"full": 1e-5, "lora": 1e-4}  # where none is given
SIDES = {"speed": "512", "quality": "512,768,1024", "high_res_only": "1024"}  # px
CLASSIC_IGNORES = {
    "captioning": NO_WORDS, "training_steps": ONCE, "iterations": ONCE, "learning_rate": ONCE, "lora_rank": NO_LORA,
    "finetune_type": NO_LORA, "priority": "the classic engine has one speed",
}  # fmt: skip


class FluxProTraining(Inputs):
    input_images: str = uri("A zip of 1 to 20 photos; a caption for img_0.jpg may stand in img_0.txt.")
    trigger_word: str = Field(
        default="TOK", min_length=1, max_length=64, pattern=r"^\S+$",
        description="The word that stands for the subject.",
    )  # fmt: skip
    mode: Mode = Field(
        default="general", description="What the photos show; style learns a style, the others a person."
    )
    finetune_comment: str | None = Field(default=None, max_length=500, description="What to call it.")
    training_steps: int = Field(default=300, ge=100, le=1000, description="Training steps.")
    iterations: int | None = Field(default=None, ge=100, le=1000, description="Another name for training_steps.")
    learning_rate: float | None = Field(default=None, ge=1e-6, le=5e-3, description="Size of a step.")
    captioning: Literal["automatic", "captioning-enabled", "captioning-disabled"] = Field(
        default="automatic", description="Whether to write captions for photos that have none."
    )
    priority: Literal["speed", "quality", "high_res_only"] = Field(default="quality", description="What matters more.")
    finetune_type: Literal["lora", "full"] = Field(default="full", description="What is trained.")
    lora_rank: Literal[16, 32] = Field(default=32, description="Rank of the LoRA.")


class FluxProTrainer(Model):
    name: ClassVar[str] = "black-forest-labs/flux-pro-trainer"
    together: ClassVar[str] = LARGE
    description: ClassVar[str] = (
        "Train an image model from photos; gives the finetune_id that flux-pro-finetuned takes."
    )
    Input: ClassVar[type[Inputs]] = FluxProTraining
    TrainingInput: ClassVar[type[Inputs] | None] = FluxProTraining
    output: ClassVar[Literal["file", "files", "text", "stream"]] = "text"
    needs_consent: ClassVar[bool] = True
    synthetic: ClassVar[bool] = False
    training_suffix: ClassVar[str] = ".tar"
    trains: ClassVar[str] = "vividcover/flux-lora"
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {"classic": CLASSIC_IGNORES}

    def classic(self, input: FluxProTraining, context: Context) -> Made:
        return self._named(self.classic_train(input, context), context)

    def _named(self, made: Made, context: Context) -> Made:
        """The id of a trained model, under which it lies on the shelf."""
        assert isinstance(made.output, Path)
        finetune_id = str(uuid.UUID(context.workspace.hash_of(made.output)[:32]))
        if context.resolve is None:  # on a server it becomes a version and a fine-tune of the account's
            shelf.shelve("image", finetune_id, made.output, context.settings)
            context.note(f"the image model is on the shelf as {finetune_id}")
        return Made(finetune_id, made.details, {TRAINED: made.output})

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        return image_learning.lacks(settings)

    def neural(self, input: FluxProTraining, context: Context) -> Made:
        return self._named(self.neural_train(input, context), context)

    def neural_train(self, input: FluxProTraining, context: Context) -> Made:
        photos = context.file("input_images", input.input_images, folder=True)
        full = input.finetune_type == "full"
        if (
            full
            and "finetune_type" not in input.model_fields_set
            and (why := image_learning.too_large(options_of(input), context))
        ):
            context.cannot("finetune_type", "full", f"{why}; a LoRA is trained instead")
            full, input = False, input.model_copy(update={"finetune_type": "lora"})
        return image_learning.learnt(photos, TRAINED, options_of(input), context, full=full)

    def classic_train(self, input: FluxProTraining, context: Context) -> Made:
        photos = context.file("input_images", input.input_images, folder=True)
        if input.mode == "product":
            context.cannot("mode", input.mode, "the classic engine learns a person or a style; it looks for a person")
        kind = "style" if input.mode == "style" else "subject"
        wish = as_fast(input.input_images, input.trigger_word, kind)
        return FastFluxTrainer().from_photos(photos, wish, TRAINED, context)

    def hosted_at(self, settings: Settings) -> str:
        return settings.bfl_url if settings.bfl_key else super().hosted_at(settings)

    def hosted(self, input: FluxProTraining, context: Context) -> Made:
        """On BFL with a key for it, else on Replicate. The id is theirs; `flux-pro-finetuned` there takes it."""
        from vividcover.catalog import remote, remote_bfl

        photos = remote.as_zip(context.file("input_images", input.input_images, folder=True), context)
        if context.settings.bfl_key:
            done = remote_bfl.finetuned(input, photos, context)
            return Made(done.meta["hosted"]["trained"], {"hosted": done.meta["hosted"]})
        return remote.made(self, remote.run(self, remote.values_of(input) | {"input_images": photos}, context))

    def hosted_train(self, input: FluxProTraining, context: Context) -> Made:
        from vividcover.errors import EngineError

        raise EngineError(
            f"{self.name} on the hosted engine gives an id, not a file.", "Run it instead of training it."
        )


def options_of(input: FluxProTraining) -> TrainOptions:
    """BFL's inputs as the trainer takes them: rates as BFL's documentation has them, a size for each priority."""
    from vividcover.image.flux.options import Kind, TrainOptions
    from vividcover.image.flux.presets import for_kind

    kind: Kind = "subject" if input.mode == "character" else input.mode
    return TrainOptions(
        trigger_word=input.trigger_word, kind=kind, steps=input.iterations or input.training_steps,
        learning_rate=input.learning_rate or RATES[input.finetune_type], rank=input.lora_rank,
        resolution=SIDES[input.priority],
        captioner="template" if input.captioning == "captioning-disabled" else "auto",
        **for_kind(kind),
    )  # fmt: skip
