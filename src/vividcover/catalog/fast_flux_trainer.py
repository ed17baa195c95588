"""`replicate/fast-flux-trainer`: a zip of photos in, an image model out.

It is trained, not run: its prediction is a no-op, as the seed's is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from vividcover.catalog import image_learning
from vividcover.catalog.contract import LARGE, Context, Inputs, Made, Model, uri
from vividcover.catalog.steps import face_kit, files_of
from vividcover.settings import Settings
from vividcover.trained import read_card
from vividcover.workspace import Stage

TRAINED = "trained_model"  # what a training calls its model where nobody names it
CLASSIC_IGNORES = {
    "training_steps": "the classic engine learns from each photo once",
    "seed": "the classic engine's training has no chance in it",
}


class FastFluxInput(Inputs):
    txt: str = Field(description="Some words.")


class FastFluxTraining(Inputs):
    input_images: str = uri("A zip or folder of photos; a caption for img_0.jpg may stand in img_0.txt.")
    trigger_word: str = Field(
        default="TOK",
        min_length=1,
        max_length=64,
        pattern=r"^\S+$",
        description="The word that stands for the subject.",
    )
    lora_type: Literal["subject", "style"] = Field(default="subject", description="Learn a subject or a style.")
    training_steps: int = Field(default=1000, ge=1, le=6000, description="Training steps.")
    seed: int | None = Field(default=None, description="Random seed.")


class FastFluxTrainer(Model):
    name: ClassVar[str] = "replicate/fast-flux-trainer"
    together: ClassVar[str] = LARGE
    description: ClassVar[str] = "Train subjects or styles from photos."
    Input: ClassVar[type[Inputs]] = FastFluxInput
    TrainingInput: ClassVar[type[Inputs] | None] = FastFluxTraining
    output: ClassVar[Literal["file", "files", "text"]] = "text"
    training_suffix: ClassVar[str] = ".tar"
    pinned: ClassVar[str] = "8b10794665aed907bb98a1a5324cd1d3a8bea0e9b31e65210967fb9c9e2e08ed"
    trains: ClassVar[str] = "vividcover/flux-lora"
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {"classic": CLASSIC_IGNORES}

    def classic(self, input: FastFluxInput, context: Context) -> Made:
        return Made("predict on this model is a no-op")

    def classic_train(self, input: FastFluxTraining, context: Context) -> Made:
        return self.learn("classic", input, TRAINED, context)

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        return image_learning.lacks(settings) if training else ""

    def neural(self, input: FastFluxInput, context: Context) -> Made:
        return self.classic(input, context)

    def neural_train(self, input: FastFluxTraining, context: Context) -> Made:
        return self.learn("neural", input, TRAINED, context)

    def neural_from_photos(self, photos: Path, input: FastFluxTraining, name: str, context: Context) -> Made:
        """The same under a name of the caller's, with the published recipe's numbers."""
        from vividcover.image.flux.options import TrainOptions
        from vividcover.image.flux.presets import for_kind

        values: dict[str, Any] = {"kind": input.lora_type, "steps": input.training_steps} | for_kind(input.lora_type)
        if input.seed is not None:
            values["seed"] = input.seed
        options = TrainOptions(input.trigger_word, **values)
        return image_learning.learnt(photos, name, options, context)

    def hosted_train(self, input: FastFluxTraining, context: Context) -> Made:
        return self.learn("hosted", input, TRAINED, context)

    def hosted_from_photos(self, photos: Path, input: FastFluxTraining, name: str, context: Context) -> Made:
        """The same there: the photos go as a zip, what comes back is wrapped for the shelf."""
        from vividcover.catalog import remote

        return remote.trained_image(self, photos, input, name, context)

    def learn(self, engine: str, input: FastFluxTraining, name: str, context: Context) -> Made:
        """The training by one engine, under a name of the caller's."""
        photos = context.file("input_images", input.input_images, folder=True)
        ways = {"classic": self.from_photos, "neural": self.neural_from_photos, "hosted": self.hosted_from_photos}
        return ways[engine](photos, input, name, context)

    def from_photos(self, photos: Path, input: FastFluxTraining, name: str, context: Context) -> Made:
        """The same from a zip or folder on this machine, under a name of the caller's."""
        from vividcover.image.classic import train

        kit = face_kit(context)
        file = "trained_model.tar"

        def compute(stage: Stage) -> None:
            stage.meta["report"] = train.train(
                photos, stage.folder / file, kit=kit, name=name, trigger_word=input.trigger_word, kind=input.lora_type,
                consent=context.consent, reporter=stage,
            )  # fmt: skip

        # in a folder names tell which caption is whose; the name of a zip tells nothing
        files = {"zip": photos} if photos.is_file() else {f"{f.name}#{i}": f for i, f in enumerate(files_of([photos]))}
        made = context.stage(
            "image/train", version=3, inputs=files,
            params={
                "name": name, "trigger_word": input.trigger_word, "type": input.lora_type, "consent": context.consent,
            },
            compute=compute,
        )  # fmt: skip
        licence = read_card(made.path(file), "image", "").get("licence")
        return Made(made.path(file), details={"report": made.meta["report"], "licence": licence})
