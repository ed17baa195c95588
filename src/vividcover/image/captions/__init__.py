"""Captions for a data set: by a model, by a service, or by a template; own captions always win.

    dataset = caption(dataset, "auto", weights=shelf)          # the best captioner whose weights are there
    dataset = caption(dataset, "openai", endpoint=Endpoint("http://127.0.0.1:8000/v1", model="qwen3-vl"))
    replace(dataset.folder, "a woman", "a singer"); dataset = refresh(dataset)

Every caption is written as NAME.txt beside its photo.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import sys
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from vividcover.errors import EngineError, ParameterError
from vividcover.files import canonical, write_text
from vividcover.image.captions.edit import read_captions, refresh, replace, write_caption
from vividcover.image.captions.florence import Florence
from vividcover.image.captions.qwen import Qwen
from vividcover.image.captions.service import Endpoint, RefusedError, Service
from vividcover.image.captions.several import Several
from vividcover.image.captions.template import Template
from vividcover.image.captions.text import Wording, compose, instruction, keep
from vividcover.image.dataset import MEMORY, Dataset, Kind, caption_file
from vividcover.image.photos import Photo
from vividcover.patience import Patient
from vividcover.settings import settings
from vividcover.weights import Resolver, Shelf
from vividcover.workspace import Reporter, Silent

__all__ = [
    "CAPTIONERS", "Captioner", "Endpoint", "Wording", "caption", "read_captions", "refresh", "replace", "write_caption",
]  # fmt: skip
FLORENCE = ("florence-2-large", "florence-2-base")  # names of weights, the better first
QWEN = "qwen3-vl-4b"
NETS = {"florence-2": FLORENCE, "qwen3-vl": (QWEN,)}
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
    endpoint: Endpoint | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Dataset:
    """The data set with a caption for every photo. `mode` and `trigger` are the data set's own unless given.

    `weights` and `endpoint` are the user's own unless given. Photos that came with a caption keep it; only the trigger
    word is put in where it is missing. A photo that a service will not describe gets the template's, which is said.
    Raises `ParameterError`, `WeightsError` (the captioner that was named lacks its weights), `ModelFileError`,
    `EngineError`, `Canceled`.
    """
    reporter, options = reporter or Silent(), dataset.options
    wording = Wording(options.trigger_word if trigger is None else trigger, mode or options.kind, prefix, suffix)
    missing = [photo for photo in dataset.photos if not photo.caption]
    if isinstance(captioner, str):
        check(captioner)
    with Patient(reporter) as patient:
        model: Captioner | None = None
        if missing and isinstance(captioner, str):
            reporter.progress(0.0, "opening the captioner")
            model = patient.call(pick, captioner, weights, endpoint, device, reporter)
        elif missing and not isinstance(captioner, str):
            model = captioner
    memory = _Memory(dataset.folder / MEMORY)
    made, refused = _describe(missing, model, wording, memory, reporter)
    told = {"name": model.name if model else "none", "own": len(dataset.photos) - len(missing), "made": len(made)}
    del model
    _free()
    own = {photo.name: keep(photo.caption, wording) for photo in dataset.photos if photo.caption}
    photos = [changed(photo, caption=(own | made)[photo.name]) for photo in dataset.photos]
    for photo in photos:
        write_text(caption_file(photo), photo.caption + "\n")
    if mended := sum(own.get(photo.name, photo.caption) != photo.caption for photo in dataset.photos):
        reporter.note(f"{mended} own captions did not have the trigger word {wording.trigger}: it was put in.")
    told |= {"refused": refused, "mode": wording.kind, "prefix": prefix, "suffix": suffix}
    captioned = dataset.with_photos(photos)
    reporter.progress(1.0, f"{len(photos)} captions")
    return changed(captioned, report=captioned.report | {"captioner": told})


def _describe(
    photos: list[Photo], model: Captioner | None, wording: Wording, memory: _Memory, reporter: Reporter
) -> tuple[dict[str, str], list[str]]:
    """(caption of each photo by its name, names of those that a service would not describe)."""
    made: dict[str, str] = {}
    refused: list[str] = []
    if model is None:
        return made, refused
    describe = model.describe  # a service's photos go side by side, a model's one after another
    told = memory.said
    known = {photo.name: told[key] for photo in photos if (key := memory.key(photo, model, wording)) in told}
    unknown = [photo for photo in photos if photo.name not in known]
    with Several(lambda photo: describe(photo.rgb(), wording), unknown, getattr(model, "parallel", 1)) as answers:
        for i, (photo, said, error) in enumerate(answers.each(reporter)):
            if isinstance(error, RefusedError):
                refused.append(photo.name)
                reporter.note(f"{photo.name}: {error.message}. Its caption is the trigger word alone.")
            elif error is not None:
                raise error
            known[photo.name] = said or ""
            memory.keep(memory.key(photo, model, wording), said or "")
            reporter.progress((i + 1) / len(unknown), f"caption {i + 1} of {len(unknown)}")
    if photos and len(refused) == len(photos):
        raise EngineError(
            f"The captioner would not describe any of the {len(photos)} photos.", "Choose another captioner or model."
        )
    for photo in photos:
        made[photo.name] = compose(known[photo.name], wording)
    return made, [photo.name for photo in photos if photo.name in refused]


def _free() -> None:
    """Gives a captioner's memory on a GPU back to what comes next."""
    if (torch := sys.modules.get("torch")) is not None:
        gc.collect()  # models refer to themselves
        torch.cuda.empty_cache()


class _Memory:
    """What captioners have said, so that a training that goes on learns from the same words as before.

    Services answer differently each time, and small models take a while.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.said: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged one is written anew
            found = json.loads(file.read_text(encoding="utf-8"))
            self.said = {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

    @staticmethod
    def key(photo: Photo, model: Captioner, wording: Wording) -> str:
        asked = [photo.digest, model.name, getattr(model, "which", ""), instruction(wording)]
        return hashlib.sha256(canonical(asked).encode()).hexdigest()

    def keep(self, key: str, said: str) -> None:
        if said and self.said.get(key) != said:
            self.said[key] = said
            write_text(self.file, json.dumps(self.said, ensure_ascii=False, indent=1))


def check(name: str) -> None:
    """Raises `ParameterError` for a name that is no captioner's."""
    if name not in CAPTIONERS:
        raise ParameterError(f"Unknown captioner {name!r}.", f"Choose one of {', '.join(CAPTIONERS)}.")


def ready(name: str, weights: Resolver | None = None, endpoint: Endpoint | None = None) -> None:
    """Raises what `pick` would for a captioner that is named and is not here, but opens none."""
    check(name)
    if name == "openai":
        _service(endpoint)
    elif name in NETS:
        shelf = weights or Shelf(settings().weights)
        if not any(shelf.has(net) for net in NETS[name]):
            shelf.path(NETS[name][0])  # says how to get it


def pick(name: str, weights: Resolver | None, endpoint: Endpoint | None, device: str, reporter: Reporter) -> Captioner:
    """A captioner by its name. `auto`: Florence-2 where its weights are, else Qwen3-VL, else the template, said."""
    check(name)
    if name == "template":
        return Template()
    if name == "openai":
        return _service(endpoint)
    shelf = weights or Shelf(settings().weights)
    wanted = NETS.get(name, (*FLORENCE, QWEN))
    there = next((net for net in wanted if shelf.has(net)), None)
    if there is None and name == "auto":
        reporter.note(
            "No captioner's weights are here, so captions are the trigger word alone. "
            f"Better ones: `vividcover weights pull {FLORENCE[0]}`, or a text file beside each photo."
        )
        return Template()
    folder = shelf.path(there or wanted[0])  # says how to get it
    return Qwen(folder, device) if there == QWEN else Florence(folder, device)


def _service(endpoint: Endpoint | None) -> Service:
    place = settings()
    if endpoint is None and not place.llm_url:
        raise ParameterError("The captioner openai needs an address.", "Set VIVIDCOVER_LLM_URL and its key.")
    return Service(endpoint or Endpoint(place.llm_url, place.llm_key, place.llm_model))
