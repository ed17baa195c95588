"""How a LoRA is trained: every choice, with the published trainers' defaults. `train.py` reads them. Needs no torch.

TrainOptions(trigger_word="TOK", kind="style", steps=600, resolution="512,768")
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from vividcover.errors import ParameterError

Kind = Literal["subject", "style", "product", "general"]
KINDS: tuple[Kind, ...] = ("subject", "style", "product", "general")
OPTIMIZERS = (
    "adamw8bit", "adamw", "adam8bit", "adam", "lion8bit", "lion", "prodigy", "adafactor", "adagrad",
)  # fmt: skip
SCHEDULES = ("constant", "cosine", "linear")
TIMESTEPS = ("balanced", "content", "style", "sigmoid", "uniform", "shift")
QUANTISATIONS = ("auto", "none", "fp8", "int8", "nf4")
SMALLEST, LARGEST = 64, 2048  # px


@dataclass(frozen=True)
class TrainOptions:
    """The first ten are inputs of the published trainers, with their defaults (ostris/flux-dev-lora-trainer).

    With several `processes` that have the steps `shared`, n of them see the same number of pictures in an n-th of the
    steps, each of which is n times as large; the learning rate is then √n times as high, as usual for Adam. On a small
    FLUX, 800 pictures in steps of 1, of 8, and of 8 with that rate brought a held-out loss from 1.53 to 1.13, 1.25 and
    1.16.
    """

    trigger_word: str = "TOK"
    steps: int = 1000
    learning_rate: float = 4e-4
    batch_size: int = 1  # pictures in a step of one process
    resolution: str = "512,768,1024"  # px: the side of a square of the largest area; every photo is learnt at each
    rank: int = 16
    caption_dropout: float = 0.05  # share of the captions that are left out
    optimizer: str = "adamw8bit"
    pattern: str | None = None  # regular expression over layer names; None: all 494 layers of the blocks
    cache_to_disk: bool = False  # latents and embeddings; else they are in memory

    kind: Kind = "subject"
    alpha: float | None = None  # None: the rank, so that the LoRA's scale is 1
    dropout: float = 0.0  # of the LoRA's inputs
    weight_decay: float = 0.01
    schedule: str = "constant"
    warmup: int = 0  # steps
    max_grad_norm: float = 1.0
    ema: float = 0.99  # 0: none. The average is what comes out
    timesteps: str = "balanced"
    guidance: float = 1.0  # what dev is told; its distilled guidance is trained at 1 by all good recipes
    text_length: int = 512  # tokens; the same has to be used for painting
    preserve_every: int = 0  # steps between two that also hold the rest still (`Objective.drift`); 0: none do
    background: float = 1.0  # how much counts what lies outside the subject's masks; 1: no masks are made

    captioner: str = "auto"  # for photos without a .txt
    caption_prefix: str = ""
    caption_suffix: str = ""

    precision: str = "auto"  # of the base: fp32, bf16
    quantise: str = "auto"  # of the base: none, fp8, int8, nf4
    checkpointing: bool | None = None  # compute activations twice to need less memory; None: as memory asks
    compile: bool = False  # the blocks, with torch.compile: minutes at first, faster steps on a GPU
    processes: int = 1  # one per GPU, started by torch's launcher
    shared: bool = True  # several processes share the steps, so that n of them take an n-th of the time
    seed: int = 42

    save_every: int = 250  # steps between two kept LoRAs
    keep: int = 4  # how many of them
    state_seconds: float = 120.0  # between two states that a killed training goes on from
    validation: float = 0.0  # share of the photos that is held back; the loss is measured on these, else on all
    sample_prompts: tuple[str, ...] = ()
    sample_every: int = 0  # steps; 0: at the end only
    sample_steps: int = 20
    sample_guidance: float = 4.0
    sample_size: int = 0  # px; 0: the largest resolution
    sample_seed: int = 42
    tensorboard: bool = False
    wandb_project: str = ""  # none: no W&B. The key is the environment's WANDB_API_KEY or `train_lora`'s argument
    wandb_run: str = ""
    wandb_entity: str = ""

    def __post_init__(self) -> None:
        self._check_numbers()
        for name, value, allowed in (
            ("kind", self.kind, KINDS), ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES), ("timesteps", self.timesteps, TIMESTEPS),
            ("quantise", self.quantise, QUANTISATIONS),
        ):  # fmt: skip
            if value not in allowed:
                raise ParameterError(f"{name} is {value!r}.", f"Choose one of {', '.join(allowed)}.")
        _ = self.resolutions

    def _check_numbers(self) -> None:
        for name, low, high in (
            ("steps", 1, 100_000), ("batch_size", 1, 256), ("rank", 1, 1024), ("processes", 1, 1024),
            ("keep", 1, 10_000), ("save_every", 1, 1_000_000), ("sample_every", 0, 1_000_000),
            ("preserve_every", 0, 100_000),
            ("sample_steps", 1, 200), ("warmup", 0, 100_000), ("text_length", 1, 512), ("learning_rate", 1e-8, 10.0),
            ("caption_dropout", 0.0, 1.0), ("ema", 0.0, 0.99999),
            ("background", 0.0, 1.0), ("validation", 0.0, 0.5), ("max_grad_norm", 1e-6, 1e6), ("dropout", 0.0, 0.9),
            ("guidance", 0.0, 100.0), ("weight_decay", 0.0, 10.0), ("seed", 0, 2**62),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ParameterError(f"{name} is {value}.", f"Choose a value between {low} and {high}.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ParameterError(f"alpha is {self.alpha}.", "Leave it out: then it is the rank, and the scale is 1.")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """px, rising, each once. Raises `ParameterError`."""
        try:
            found = tuple(sorted({int(part) for part in str(self.resolution).split(",") if part.strip()}))
        except ValueError:
            found = ()
        if not found or not all(SMALLEST <= side <= LARGEST for side in found):
            raise ParameterError(
                f"resolution is {self.resolution!r}.",
                f"Give one or more sides in px, {SMALLEST} to {LARGEST}, for example 512,768,1024.",
            )
        return found

    @property
    def optimizer_steps(self) -> int:
        """Times that the weights move."""
        return math.ceil(self.steps / self.processes) if self.shared else self.steps

    @property
    def rate(self) -> float:
        """The learning rate that the optimizer gets; prodigy finds its own."""
        alone = self.processes == 1 or not self.shared or self.optimizer == "prodigy"
        return self.learning_rate if alone else self.learning_rate * math.sqrt(self.processes)

    def with_(self, **changes: Any) -> TrainOptions:
        """These, with changes; raises `ParameterError` for a name that is none."""
        names = [f.name for f in fields(self)]
        if unknown := [name for name in changes if name not in names]:
            raise ParameterError(f"There is no option {unknown[0]!r}.", f"There are {', '.join(names)}.")
        return replace(self, **changes)

    def mathematics(self) -> dict[str, Any]:
        """What decides which LoRA comes out. The number of steps only where earlier ones depend on it."""
        names = {
            "learning_rate", "batch_size", "rank", "alpha", "caption_dropout", "optimizer", "pattern", "dropout",
            "weight_decay", "schedule", "warmup", "max_grad_norm", "ema", "timesteps", "guidance", "background",
            "precision", "quantise", "processes", "shared", "seed", "validation",
            "preserve_every",
        }  # fmt: skip
        chosen = {name: value for name, value in asdict(self).items() if name in names}
        return chosen | ({"steps": self.optimizer_steps} if self.schedule != "constant" else {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainOptions:
        """What `dataclasses.asdict` gave, after a way through JSON."""
        return cls(**{**values, "sample_prompts": tuple(values.get("sample_prompts", ()))})
