"""Captions for a data set: by a model, by a service, or by a template; own captions always win.

    dataset = caption(dataset, "auto", weights=shelf)          # the best captioner whose weights are there
    dataset = caption(dataset, "openai", endpoint=Endpoint("http://127.0.0.1:8000/v1", model="qwen3-vl"))
    replace(dataset.folder, "a woman", "a singer"); dataset = refresh(dataset)

Every caption is written as NAME.txt beside its photo.
"""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Any, Protocol

from numpy.typing import NDArray

from vividcover.errors import ParameterError
from vividcover.files import write_text
from vividcover.image.captions.edit import read_captions, refresh, replace, write_caption
from vividcover.image.captions.template import Template
from vividcover.image.captions.text import Wording, compose, keep
from vividcover.image.dataset import Dataset, Kind, caption_file
from vividcover.image.photos import Photo
from vividcover.patience import Patient
from vividcover.weights import Resolver
from vividcover.workspace import Reporter, Silent

__all__ = [
    "CAPTIONERS", "Captioner", "Wording", "caption", "read_captions", "refresh", "replace", "write_caption",
]  # fmt: skip
CAPTIONERS = ("auto", "florence-2", "qwen3-vl", "openai", "template")


class Captioner(Protocol):
    """Says what a photo shows. Raises errors of `vividcover.errors`, never returns words about its own failure."""

    name: str

    def describe(self, rgb: NDArray[Any], wording: Wording) -> str:
        """Of a photo uint8 [H,W,3]; `compose` puts trigger word, prefix and suffix in afterwards."""


def caption(
    dataset: Dataset,
    captioner: str | Captioner = "auto",
    *,
    mode: Kind | None = None,
    trigger: str | None = None,
    prefix: str = "",
    suffix: str = "",
    weights: Resolver | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Dataset:
    """The data set with a caption for every photo. `mode` and `trigger` are the data set's own unless given.

    Photos that came with a caption keep it; only the trigger word is put in where it is missing.
    Raises `ParameterError`, `WeightsError` (a captioner that was named lacks its weights), `EngineError`.
    """
    reporter = reporter or Silent()
    options = dataset.options
    wording = Wording(options.trigger_word if trigger is None else trigger, mode or options.kind, prefix, suffix)
    missing = [photo for photo in dataset.photos if not photo.caption]
    model = None
    if missing:
        model = pick(captioner, weights, device, reporter) if isinstance(captioner, str) else captioner
    photos: list[Photo] = []
    mended = done = 0
    with Patient(reporter) as patient:
        for photo in dataset.photos:
            if photo.caption or model is None:
                text = keep(photo.caption, wording)
                mended += text != photo.caption
            else:
                done += 1
                reporter.progress((done - 1) / len(missing), f"caption {done} of {len(missing)}")
                text = compose(patient.call(model.describe, photo.rgb(), wording), wording)
            write_text(caption_file(photo), text + "\n")
            photos.append(changed(photo, caption=text))
    if mended:
        reporter.note(f"{mended} own captions did not have the trigger word {wording.trigger}: it was put in.")
    captioned = dataset.with_photos(photos)
    captioned.report["captioner"] = {
        "name": model.name if model else "none", "own": len(photos) - len(missing), "made": len(missing),
        "prefix": prefix, "suffix": suffix, "mode": wording.kind,
    }  # fmt: skip
    reporter.progress(1.0, f"{len(photos)} captions")
    return captioned


def pick(name: str, weights: Resolver | None, device: str, reporter: Reporter) -> Captioner:
    """A captioner by its name. `auto`: Florence-2 where its weights are, else Qwen3-VL, else the template, said."""
    if name not in CAPTIONERS:
        raise ParameterError(f"Unknown captioner {name!r}.", f"Choose one of {', '.join(CAPTIONERS)}.")
    return Template()
