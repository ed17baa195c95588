"""What a training reads: pictures as latents, captions as embeddings, both computed once; and who comes when.

    learnt = TrainingSet(items, captions, store)
    order = Order([item.shape for item in items], batch=2, seed=1)
    batch = learnt.batch(order.ids(step), draws(seed, step, 2), options…)

Nothing here has a state: which pictures a step takes, their levels of noise, the noise itself and which captions are
left out follow from the seed and the number of the step. So a training that is stopped goes on as if it had not been,
and several processes share one step's pictures without talking about it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vividcover.errors import ModelFileError
from vividcover.files import canonical, write_text
from vividcover.image.flux.timesteps import levels
from vividcover.tensors import read_tensors, seeded, write_tensors

KEPT = 256  # latents and texts that are kept near: half a gigabyte at most
EMPTY = 0  # the caption that says nothing, which takes the place of those that are left out


@dataclass(frozen=True)
class Item:
    """A photo at one size. `caption`: its number in the set. `shape` of the latent: (h, w)."""

    name: str
    caption: int
    width: int  # px
    height: int
    resolution: int
    masked: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.height // 8, self.width // 8

    @property
    def tokens(self) -> int:
        return (self.height // 16) * (self.width // 16)


class Store:
    """Named tensors, in memory or, with a folder, each in a file of its own."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: dict[str, dict[str, Tensor]] = {}

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if self.folder is None:
            self._kept[name] = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        else:
            write_tensors(self.folder / f"{name}.safetensors", tensors)

    def get(self, name: str) -> dict[str, Tensor]:
        if self.folder is None:
            return self._kept[name]
        found: dict[str, Tensor] = read_tensors(self.folder / f"{name}.safetensors")
        return found


@dataclass(frozen=True)
class Draw:
    """What is random for one picture in one step. `uniform` decides its level of noise."""

    uniform: float
    dropped: float
    noise: int  # the seed of its noise


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one size, side by side."""

    latents: Tensor  # [B, 16, h, w] float32
    noise: Tensor  # [B, 16, h, w] float32
    sigma: Tensor  # [B] level of noise, 0..1
    tokens: Tensor  # [B, T, text width]
    pooled: Tensor  # [B, pooled width]
    weight: Tensor | None  # [B, h, w] how much each place counts

    def __len__(self) -> int:
        return len(self.sigma)

    def without_words(self, lessons: TrainingSet) -> Batch:
        """The same pictures with the caption that says nothing."""
        tokens, pooled = (found.expand(len(self), *found.shape) for found in lessons.text(EMPTY))
        return replace(self, tokens=tokens, pooled=pooled)

    def part(self, start: int, stop: int) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        parts: dict[str, Any] = {n: None if v is None else v[start:stop] for n, v in values.items()}
        return Batch(**parts)


class TrainingSet:
    """Items and captions; `store` holds `item_0…`: latents, maybe a mask, and `text_0…`: tokens, pooled."""

    def __init__(self, items: Sequence[Item], captions: Sequence[str], store: Store) -> None:
        self.items, self.captions, self.store = list(items), list(captions), store
        self.keep_on(torch.device("cpu"))

    def keep_on(self, device: torch.device) -> None:
        """Gives batches on this device, where what was used last stays: a photo has 1 MB, a text 4."""
        self.device = device
        near = self.store.folder is None and device.type == "cpu"
        self._latest = lru_cache(maxsize=0 if near else KEPT)(self._on_device)

    def _on_device(self, name: str) -> dict[str, Tensor]:
        return {key: value.to(self.device) for key, value in self.store.get(name).items()}

    def latent(self, number: int) -> Tensor:
        """[16, h, w] float32"""
        return self._latest(f"item_{number:05d}")["latent"].float()

    def mask(self, number: int) -> Tensor | None:
        """[h, w] 0..1, 1 where the subject is."""
        return self._latest(f"item_{number:05d}").get("mask")

    def text(self, caption: int) -> tuple[Tensor, Tensor]:
        """tokens [T, text width], pooled [pooled width]"""
        found = self._latest(f"text_{caption:05d}")
        return found["tokens"], found["pooled"]

    def batch(
        self, ids: Sequence[int], draws: Sequence[Draw], *, way: str = "balanced", caption_dropout: float = 0.0,
        background: float = 1.0,
    ) -> Batch:  # fmt: skip
        """Pictures `ids`, which are of one size, with what was drawn for each."""
        items = [self.items[i] for i in ids]
        captions = [EMPTY if d.dropped < caption_dropout else item.caption for item, d in zip(items, draws)]
        uniform = torch.tensor([d.uniform for d in draws], dtype=torch.float64)
        return self.given(ids, levels(way, uniform, items[0].tokens), [d.noise for d in draws], captions, background)

    def given(
        self, ids: Sequence[int], sigma: Tensor, noise: Sequence[int], captions: Sequence[int], background: float = 1.0
    ) -> Batch:
        """A batch of which everything is said. `background`: how much counts what lies outside the masks."""
        latents = torch.stack([self.latent(i) for i in ids])
        texts = [self.text(c) for c in captions]
        drawn = torch.stack([torch.randn(latents.shape[1:], generator=seeded(n)) for n in noise])  # the same everywhere
        if self.device.type == "cuda":
            drawn = drawn.pin_memory()  # so that nobody waits for the copy
        return Batch(
            latents, drawn.to(self.device, non_blocking=True), sigma.to(self.device),
            torch.stack([t[0] for t in texts]), torch.stack([t[1] for t in texts]), self._weight(ids, background),
        )  # fmt: skip

    def _weight(self, ids: Sequence[int], background: float) -> Tensor | None:
        if background >= 1.0 or not any(self.items[i].masked for i in ids):
            return None
        h, w = self.items[ids[0]].shape
        masks = [torch.ones(h, w, device=self.device) if (mask := self.mask(i)) is None else mask.float() for i in ids]
        weights = torch.stack([background + (1.0 - background) * mask for mask in masks])
        return weights / weights.mean(dim=(1, 2), keepdim=True)  # so that a small face does not learn slower

    # --- files ------------------------------------------------------------------------------------------------------

    def close(self, fingerprint: str) -> None:
        """Says that all is there. Only for a set on the disk."""
        assert self.store.folder is not None
        story = {"fingerprint": fingerprint, "items": [asdict(item) for item in self.items], "captions": self.captions}
        write_text(self.store.folder / "set.json", canonical(story))

    @classmethod
    def open(cls, folder: Path, fingerprint: str = "") -> TrainingSet | None:
        """A whole set on the disk; None if there is none, or one of something else."""
        try:
            found = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ModelFileError(f"{folder / 'set.json'} is damaged.", "Remove the folder: it is made anew.") from error
        if fingerprint and found["fingerprint"] != fingerprint:
            return None
        return cls([Item(**item) for item in found["items"]], found["captions"], Store(folder))


class Order:
    """Which pictures each step takes: all once before any comes again, in batches of one size.

    `shapes`: of every item that is learnt from, by its number. Where a size has no whole number of batches, its first
    ones come twice. `batch`: pictures in a step, of all processes together.
    """

    def __init__(self, shapes: Mapping[int, tuple[int, int]], batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self._alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, shape in shapes.items():
            self._alike[shape].append(number)
        self.steps = sum(-(-len(alike) // batch) for alike in self._alike.values())  # in a pass through all
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def ids(self, step: int) -> list[int]:
        epoch, position = divmod(step, self.steps)
        return self._epoch(epoch)[position]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng((self.seed, epoch))
        batches = []
        for alike in self._alike.values():
            order = random.permutation(alike).tolist()
            filled = list(islice(cycle(order), -(-len(order) // self.batch) * self.batch))
            batches += [filled[i : i + self.batch] for i in range(0, len(filled), self.batch)]
        return [batches[i] for i in random.permutation(len(batches))]


def draws(seed: int, step: int, count: int) -> list[Draw]:
    """What is random in a step, for each of its pictures."""
    random = np.random.default_rng((seed, step, 1))
    numbers, noises = random.random((count, 2)), random.integers(0, 2**62, count)
    return [Draw(float(u), float(d), int(n)) for (u, d), n in zip(numbers, noises)]
