"""`ostris/flux-dev-lora-trainer`: a zip of photos in, an image model out; the trainer that most published code calls.

On the classic engine it does what `replicate/fast-flux-trainer` does. Inputs as the published model has them, and two
more that a widely copied guide gives it: `lora_type` and `autocaptioning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from vividcover.catalog.contract import Context, Inputs, Made, Model, secret, uri
from vividcover.catalog.fast_flux_trainer import FastFluxTrainer, FastFluxTraining
from vividcover.catalog.pins import PINS

NAME = "ostris/flux-dev-lora-trainer"
ONCE = "the classic engine learns from each photo once"
NO_LORA = "the classic engine trains no network"
NO_WORDS = "the classic engine reads the photos, not captions of them"
NO_LOG = "the classic engine sends nothing to other services"
CLASSIC_IGNORES = {
    "autocaption": NO_WORDS, "autocaptioning": NO_WORDS, "autocaption_prefix": NO_WORDS, "autocaption_suffix": NO_WORDS,
    "steps": ONCE, "learning_rate": ONCE, "batch_size": ONCE, "resolution": "each photo is used at its own size",
    "lora_rank": NO_LORA, "caption_dropout_rate": NO_WORDS, "optimizer": NO_LORA, "cache_latents_to_disk": NO_LORA,
    "layers_to_optimize_regex": NO_LORA, "gradient_checkpointing": NO_LORA, "hf_repo_id": NO_LOG, "hf_token": NO_LOG,
    "wandb_api_key": NO_LOG, "wandb_project": NO_LOG, "wandb_run": NO_LOG, "wandb_entity": NO_LOG,
    "wandb_sample_interval": NO_LOG, "wandb_sample_prompts": NO_LOG, "wandb_save_interval": NO_LOG,
    "skip_training_and_use_pretrained_hf_lora_url": NO_LORA,
}  # fmt: skip
Optimizer = Literal["prodigy", "adam8bit", "adamw8bit", "lion8bit", "adam", "adamw", "lion", "adagrad", "adafactor"]


class FluxDevLoraInput(Inputs):
    prompt: str = Field(default="", description="Nothing is made of it: this model is trained, not run.")


class FluxDevLoraTraining(Inputs):
    input_images: str = uri("A zip of photos, best 10 to 20; a caption for img_0.jpg may stand in img_0.txt.")
    trigger_word: str = Field(
        default="TOK", min_length=1, max_length=64, pattern=r"^\S+$",
        description="The word that stands for the subject; best one that occurs nowhere else.",
    )  # fmt: skip
    lora_type: Literal["subject", "style"] = Field(default="subject", description="Learn a subject or a style.")
    autocaption: bool = Field(default=True, description="Write captions for photos that have none.")
    autocaptioning: bool | None = Field(default=None, description="Another name for autocaption.")
    autocaption_prefix: str | None = Field(default=None, description="What captions begin with.")
    autocaption_suffix: str | None = Field(default=None, description="What captions end with.")
    steps: int = Field(default=1000, ge=3, le=6000, description="Training steps.")
    learning_rate: float = Field(default=4e-4, description="Size of a step.")
    batch_size: int = Field(default=1, description="Photos to a step.")
    resolution: str = Field(default="512,768,1024", description="Sizes to train at, px, with commas between.")
    lora_rank: int = Field(default=16, ge=1, le=128, description="Rank of the LoRA.")
    caption_dropout_rate: float = Field(default=0.05, ge=0, le=1, description="Share of captions left out.")
    optimizer: Optimizer = Field(default="adamw8bit", description="What takes the steps.")
    cache_latents_to_disk: bool = Field(default=False, description="For datasets that do not fit the memory.")
    layers_to_optimize_regex: str | None = Field(default=None, description="Which layers to train.")
    gradient_checkpointing: bool = Field(default=False, description="Less memory, more time.")
    hf_repo_id: str | None = Field(default=None, description="Hugging Face repository to copy the model to.")
    hf_token: str | None = secret("Token for it.")
    wandb_api_key: str | None = secret("Key for Weights & Biases.")
    wandb_project: str = Field(default="flux_train_replicate", description="Project there.")
    wandb_run: str | None = Field(default=None, description="Run there.")
    wandb_entity: str | None = Field(default=None, description="Entity there.")
    wandb_sample_interval: int = Field(default=100, ge=1, description="Steps between samples there.")
    wandb_sample_prompts: str | None = Field(default=None, description="Prompts of the samples, one a line.")
    wandb_save_interval: int = Field(default=100, ge=1, description="Steps between checkpoints there.")
    skip_training_and_use_pretrained_hf_lora_url: str | None = Field(
        default=None, description="Use this LoRA of Hugging Face instead of training."
    )


class FluxDevLoraTrainer(Model):
    name: ClassVar[str] = NAME
    description: ClassVar[str] = "Train an image model from photos, as the FLUX.1 [dev] LoRA trainer is called."
    Input: ClassVar[type[Inputs]] = FluxDevLoraInput
    TrainingInput: ClassVar[type[Inputs] | None] = FluxDevLoraTraining
    output: ClassVar[Literal["file", "files", "text", "stream"]] = "text"
    training_suffix: ClassVar[str] = ".tar"
    trains: ClassVar[str] = "vividcover/flux-lora"
    pinned: ClassVar[str] = PINS[NAME][-1]
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {"classic": CLASSIC_IGNORES}

    def classic(self, input: FluxDevLoraInput, context: Context) -> Made:
        return Made("This model is trained, not run: run the model that a training makes.")

    def classic_train(self, input: FluxDevLoraTraining, context: Context) -> Made:
        photos = context.file("input_images", input.input_images, folder=True)
        wish = as_fast(input.input_images, input.trigger_word, input.lora_type)
        return FastFluxTrainer().from_photos(photos, wish, "trained_model", context)

    def hosted_train(self, input: FluxDevLoraTraining, context: Context) -> Made:
        from vividcover.catalog import remote

        photos = context.file("input_images", input.input_images, folder=True)
        return remote.trained_image(self, photos, input, "trained_model", context)


def as_fast(photos: str, trigger_word: str, kind: str) -> FastFluxTraining:
    """The same wish as the classic trainer takes it."""
    return FastFluxTraining.model_validate({"input_images": photos, "trigger_word": trigger_word, "lora_type": kind})
