"""`ostris/flux-dev-lora-trainer`: a zip of photos in, an image model out; the trainer that most published code calls.

On the classic engine it does what `replicate/fast-flux-trainer` does. Inputs as the published model has them, and two
more that a widely copied guide gives it: `lora_type` and `autocaptioning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from vividcover.catalog import image_learning
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, secret, uri
from vividcover.catalog.fast_flux_trainer import TRAINED, FastFluxTrainer, FastFluxTraining
from vividcover.catalog.pins import PINS
from vividcover.errors import ParameterError
from vividcover.settings import Settings

if TYPE_CHECKING:
    from vividcover.image.flux.options import TrainOptions

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
    input_images: str | None = uri(
        "A zip of photos, best 10 to 20; a caption for img_0.jpg may stand in img_0.txt.", required=False
    )
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
    # what follows is not part of the published model
    kind: Literal["subject", "style", "product", "general"] | None = Field(
        default=None, description="What is learnt, for captions and presets; empty: lora_type."
    )
    captioner: Literal["auto", "florence-2", "qwen3-vl", "openai", "template"] = Field(
        default="auto", description="Who writes captions; auto: Florence-2 where its weights are, else a template."
    )
    lora_alpha: float | None = Field(default=None, gt=0, le=1024, description="Alpha of the LoRA; empty: its rank.")
    background: float = Field(
        default=1.0, ge=0, le=1, description="How much counts what is not the subject; below 1 masks are made."
    )
    preserve_every: int = Field(
        default=0, ge=0, le=6000,
        description="Every so many steps also hold still what the photos do not show; 0: never, 3: costs half again.",
    )  # fmt: skip
    lora_dropout: float = Field(default=0.0, ge=0, le=0.9, description="Share of the LoRA's inputs left out.")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="How fast unused weights fade.")
    timesteps: Literal["balanced", "content", "style", "sigmoid", "uniform", "shift"] = Field(
        default="balanced", description="Which levels of noise are learnt from most."
    )
    text_length: Literal[64, 128, 256, 512] = Field(
        default=512, description="Text tokens; fewer are faster. Pictures are then made with as many."
    )
    quantise: Literal["auto", "none", "fp8", "int8", "nf4"] = Field(
        default="auto", description="In how many bits FLUX lies in memory; auto: as the device's memory asks."
    )
    ema: float = Field(default=0.99, ge=0, le=0.9999, description="Decay of the average that comes out; 0: none.")
    warmup: int = Field(default=0, ge=0, le=6000, description="Steps until the learning rate is reached.")
    schedule: Literal["constant", "cosine", "linear"] = Field(default="constant", description="How the rate goes on.")
    validation: float = Field(default=0.0, ge=0, le=0.5, description="Share of the photos held back to measure on.")
    sample_prompts: str | None = Field(default=None, description="Prompts drawn on the way, one a line.")
    sample_every: int = Field(default=250, ge=0, le=6000, description="Steps between such samples; 0: at the end.")
    save_every: int = Field(default=250, ge=1, le=6000, description="Steps between LoRAs kept on the way.")
    keep: int = Field(default=4, ge=1, le=1000, description="How many of these are kept.")
    finetune_type: Literal["lora", "full"] = Field(
        default="lora", description="full: all of FLUX is trained, and a LoRA taken of the difference."
    )
    seed: int = Field(default=42, ge=0, le=2**62, description="Random seed.")
    tensorboard: bool = Field(default=False, description="Also write TensorBoard's files.")
    processes: int = Field(default=1, ge=1, le=64, description="One per GPU; they share the steps.")
    compile: bool = Field(default=False, description="Compile the blocks: minutes at first, faster steps on a GPU.")
    hf_private: bool = Field(default=True, description="Whether the copy on Hugging Face is private.")

    @model_validator(mode="after")
    def _from_something(self) -> Self:
        if not self.input_images and not self.skip_training_and_use_pretrained_hf_lora_url:
            raise PydanticCustomError("missing", "{field} is required", {"field": "input_images"})
        return self


OURS = tuple(FluxDevLoraTraining.model_fields)[tuple(FluxDevLoraTraining.model_fields).index("kind") :]


class FluxDevLoraTrainer(Model):
    name: ClassVar[str] = NAME
    together: ClassVar[str] = LARGE
    description: ClassVar[str] = "Train an image model from photos, as the FLUX.1 [dev] LoRA trainer is called."
    Input: ClassVar[type[Inputs]] = FluxDevLoraInput
    TrainingInput: ClassVar[type[Inputs] | None] = FluxDevLoraTraining
    output: ClassVar[Literal["file", "files", "text", "stream"]] = "text"
    training_suffix: ClassVar[str] = ".tar"
    trains: ClassVar[str] = "vividcover/flux-lora"
    pinned: ClassVar[str] = PINS[NAME][-1]
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "classic": CLASSIC_IGNORES | dict.fromkeys(OURS[1:], NO_LORA),
        "hosted": dict.fromkeys(OURS, "it is not one of the published model's inputs"),
    }  # fmt: skip

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        return image_learning.lacks(settings) if training else ""

    def neural(self, input: FluxDevLoraInput, context: Context) -> Made:
        return self.classic(input, context)

    def learn(self, engine: str, input: FluxDevLoraTraining, name: str, context: Context) -> Made:
        """The training by one engine, under a name of the caller's."""
        ways = {"classic": self._classic, "neural": self._neural, "hosted": self._hosted}
        return ways[engine](input, name, context)

    def classic_train(self, input: FluxDevLoraTraining, context: Context) -> Made:
        return self.learn("classic", input, TRAINED, context)

    def neural_train(self, input: FluxDevLoraTraining, context: Context) -> Made:
        return self.learn("neural", input, TRAINED, context)

    def hosted_train(self, input: FluxDevLoraTraining, context: Context) -> Made:
        return self.learn("hosted", input, TRAINED, context)

    def _neural(self, input: FluxDevLoraTraining, name: str, context: Context) -> Made:
        """By the neural engine; copied to Hugging Face where that was asked for."""
        token = image_learning.hub_token(input.hf_token, context) if input.hf_repo_id else ""
        if input.skip_training_and_use_pretrained_hf_lora_url:
            made = image_learning.adopted(
                input.skip_training_and_use_pretrained_hf_lora_url, name, input.trigger_word, context,
                input.hf_token or "",
            )  # fmt: skip
        else:
            made = image_learning.learnt(
                self.photos(input, context), name, options_of(input), context, full=input.finetune_type == "full",
                wandb_key=input.wandb_api_key or "",
            )  # fmt: skip
        if input.hf_repo_id:
            image_learning.pushed(made, input.hf_repo_id, token, input.hf_private, context)
        return made

    def photos(self, input: FluxDevLoraTraining, context: Context) -> Path:
        if not input.input_images:
            raise ParameterError("input_images is required.", "Give a zip or folder of photos, best 10 to 20.")
        return context.file("input_images", input.input_images, folder=True)

    def classic(self, input: FluxDevLoraInput, context: Context) -> Made:
        return Made("This model is trained, not run: run the model that a training makes.")

    def _classic(self, input: FluxDevLoraTraining, name: str, context: Context) -> Made:
        photos = self.photos(input, context)
        kind = "style" if (input.kind or input.lora_type) == "style" else "subject"
        return FastFluxTrainer().from_photos(photos, as_fast(str(photos), input.trigger_word, kind), name, context)

    def _hosted(self, input: FluxDevLoraTraining, name: str, context: Context) -> Made:
        from vividcover.catalog import remote

        return remote.trained_image(self, self.photos(input, context), input, name, context, without=OURS)


def options_of(input: FluxDevLoraTraining) -> TrainOptions:
    """The published inputs, and ours, as the trainer takes them. Presets of the kind fill what was not given."""
    from vividcover.image.flux.options import TrainOptions
    from vividcover.image.flux.presets import for_kind

    kind = input.kind or input.lora_type
    same = (
        "trigger_word", "steps", "learning_rate", "batch_size", "resolution", "optimizer", "background", "timesteps",
        "text_length", "quantise", "ema", "warmup", "schedule", "validation", "save_every", "keep", "seed",
        "tensorboard", "processes", "sample_every", "compile", "preserve_every", "weight_decay",
    )  # fmt: skip
    values: dict[str, Any] = {key: getattr(input, key) for key in same}
    values |= {
        "kind": kind, "rank": input.lora_rank, "alpha": input.lora_alpha, "dropout": input.lora_dropout,
        "cache_to_disk": input.cache_latents_to_disk,
        "caption_dropout": input.caption_dropout_rate, "pattern": input.layers_to_optimize_regex,
        "captioner": input.captioner if _captions(input) else "template",
        "caption_prefix": input.autocaption_prefix or "", "caption_suffix": input.autocaption_suffix or "",
        "checkpointing": True if input.gradient_checkpointing else None,
        "sample_prompts": tuple(filter(None, (line.strip() for line in (input.sample_prompts or "").splitlines()))),
    }  # fmt: skip
    if input.wandb_api_key:
        prompts = (input.wandb_sample_prompts or input.sample_prompts or "").splitlines()
        values |= {
            "wandb_project": input.wandb_project, "wandb_run": input.wandb_run or "",
            "wandb_entity": input.wandb_entity or "", "save_every": input.wandb_save_interval,
            "sample_every": input.wandb_sample_interval,
            "sample_prompts": tuple(filter(None, (line.strip() for line in prompts))),
        }  # fmt: skip
    given = {"caption_dropout": "caption_dropout_rate"}
    preset = {k: v for k, v in for_kind(kind).items() if given.get(k, k) not in input.model_fields_set}
    return TrainOptions(**(values | preset))


def _captions(input: FluxDevLoraTraining) -> bool:
    return input.autocaption if input.autocaptioning is None else input.autocaptioning


def as_fast(photos: str, trigger_word: str, kind: str) -> FastFluxTraining:
    """The same wish as the classic trainer takes it."""
    return FastFluxTraining.model_validate({"input_images": photos, "trigger_word": trigger_word, "lora_type": kind})
