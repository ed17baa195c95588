"""Photos and captions through FLUX's encoders, once, so that a training needs no encoder any more.

    lessons = encode(base, dataset, options, folder, fingerprint, reporter)

What a photo shows becomes the mean of its latents, without the autoencoder's own noise, which is far below what a
training adds; the same photos give the same numbers. Texts that several photos share are encoded once.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vividcover.errors import ImageError
from vividcover.files import canonical
from vividcover.image import buckets
from vividcover.image.dataset import Dataset, fingerprint
from vividcover.image.flux.data import EMPTY, Item, Store, TrainingSet
from vividcover.patience import Patient
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.image.flux.opening import Base, BaseFiles
    from vividcover.image.flux.options import TrainOptions


def encode(
    base: Base, dataset: Dataset, options: TrainOptions, folder: Path, reporter: Reporter, *, on_disk: bool, key: str
) -> TrainingSet:
    """The set of `key`, found in `folder` or made: in memory, or in the folder where it has to be on the disk.

    Raises `Canceled`; what is on the disk then is made anew the next time.
    """
    if on_disk and (found := TrainingSet.open(folder, key)) is not None:
        reporter.progress(1.0, f"{len(found.items)} pictures were encoded before")
        return found
    if on_disk:
        shutil.rmtree(folder, ignore_errors=True)
    sizes = [(photo, bucket) for photo in dataset.photos for bucket in _buckets(photo, options)]
    captions = ["", *dict.fromkeys(photo.caption for photo in dataset.photos if photo.caption)]
    store, items = Store(folder if on_disk else None), []
    total = len(sizes) + len(captions) + len(options.sample_prompts)
    with Patient(reporter) as patient:
        for number, text in enumerate([*captions, *options.sample_prompts]):
            reporter.progress(number / total, f"text {number + 1}")
            found_text = patient.call(base.encode_text, [text], options.text_length)
            sample = number - len(captions)
            name = f"text_{number:05d}" if sample < 0 else f"prompt_{sample:05d}"
            store.put(name, {"tokens": found_text.tokens[0], "pooled": found_text.pooled[0]})
        base.release("text")
        for number, (photo, bucket) in enumerate(sizes):
            reporter.progress((total - len(sizes) + number) / total, f"picture {number + 1} of {len(sizes)}")
            pixels = torch.from_numpy(buckets.pixels(photo, bucket))[None]
            tensors = {"latent": patient.call(base.encode_pictures, pixels)[0].float()}
            masked = options.background < 1.0 and photo.mask is not None
            if masked:
                tensors["mask"] = torch.from_numpy(buckets.mask(photo, bucket))
            store.put(f"item_{number:05d}", tensors)
            caption = captions.index(photo.caption) if photo.caption else EMPTY
            items.append(Item(photo.name, caption, bucket.width, bucket.height, bucket.resolution, masked))
    lessons = TrainingSet(items, captions, store)
    if on_disk:
        lessons.close(key)
    reporter.progress(1.0, f"{len(items)} pictures and {len(captions) - 1} captions encoded")
    return lessons


def _buckets(photo: Any, options: TrainOptions) -> list[buckets.Bucket]:
    return buckets.buckets(*buckets.size_of(photo), options.resolutions)


def split(lessons: TrainingSet, share: float) -> tuple[list[int], list[int]]:
    """Numbers of the items to learn from, and of those that the loss is measured on.

    A share of the photos (not of their sizes) is held back, evenly over the set; without one, all are both. Raises
    `ImageError` when none would be left to learn from.
    """
    photos = list(dict.fromkeys(item.name for item in lessons.items))
    everything = list(range(len(lessons.items)))
    if not share:
        return everything, everything
    count = max(1, round(share * len(photos)))
    if count >= len(photos):
        raise ImageError(
            f"Of {len(photos)} photos {count} would be held back.", "Give more photos, or a validation share of 0."
        )
    held = {photos[(i * len(photos)) // count] for i in range(count)}
    return (
        [i for i in everything if lessons.items[i].name not in held],
        [i for i in everything if lessons.items[i].name in held],
    )


def key_of(dataset: Dataset, options: TrainOptions, files: BaseFiles, dtype: torch.dtype) -> str:
    """What decides the numbers of a set: photos, captions, masks, sizes, encoders."""
    order = [[photo.name, photo.digest] for photo in dataset.photos]
    parts = [
        fingerprint(dataset.photos), order, list(options.resolutions), options.text_length,
        list(options.sample_prompts), options.background < 1.0, str(dtype), identity(files.text), identity(files.vae),
    ]  # fmt: skip
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def identity(path: Path) -> list[Any]:
    """What tells weights apart without reading gigabytes: names and sizes of the files."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    return [[str(p.relative_to(root)), p.stat().st_size] for p in files]
