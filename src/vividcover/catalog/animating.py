"""Portraits by a renderer of `portrait/` with networks: the stage around it, and what goes with it.

    done = animated(input, still, vocals, context)      # `portrait.mp4`, without sound; meta is the renderer's report

What a portrait has reached lies under the cache, named by what is drawn: after a kill or cancel the same call goes on
there, and another size or smoother pictures are made of what a finished one has drawn.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.catalog import drawing, engines, trainings
from vividcover.catalog.contract import Context
from vividcover.catalog.steps import face_kit
from vividcover.errors import ParameterError
from vividcover.portrait import renderers
from vividcover.portrait.renderers import About
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult

if TYPE_CHECKING:
    from vividcover.catalog.sonic import SonicInput

FOLDER = "portraits"  # under the cache
FILE = "portrait.mp4"
STAGE, VERSION = "portrait/animate", 1
USUAL = "sonic"  # who draws where nobody is asked for
ROOM = 24e9  # bytes of a GPU's memory that a portrait likes to have
SAME = ("preview_every", "processes")  # options with which the video is the same
OPTIONS = {  # inputs of the catalog → a renderer's options
    "mode": "mode", "speedups": "speedups", "inference_steps": "steps", "straight_windows": "straight",
    "smooth_decoding": "smooth_decoding", "smooth_listening": "smooth_listening", "idle_motion": "idle",
    "preview_every": "preview_every", "processes": "processes",
}  # fmt: skip


def about(input: SonicInput | None) -> About:
    """Who draws: the renderer that was asked for, or Sonic. Raises `NotFoundError`."""
    return renderers.about((input and input.renderer) or USUAL)


def lacks(settings: Settings, input: SonicInput | None) -> str:
    """What is missing here for it, in words; "" when nothing is."""
    return engines.missing(settings, about(input).nets)


def check(input: SonicInput, engine: str = "neural") -> About:
    """Who draws. Raises `ParameterError` for a renderer of another engine, and for an option that it refuses."""
    who = about(input)
    if who.engine != engine:
        raise ParameterError(
            f"The renderer {who.name} belongs to the {who.engine} engine.", f"Use --engine {who.engine}."
        )
    renderers.check(who.name, _options(input, who))
    return who


def _options(input: SonicInput, who: About) -> dict[str, Any]:
    """The renderer's own options, of what was given."""
    names = [name for name in OPTIONS if name in input.model_fields_set and OPTIONS[name] in who.options]
    given = {OPTIONS[name]: getattr(input, name) for name in names}
    if isinstance(given.get("speedups"), str):
        given["speedups"] = tuple(filter(None, (one.strip() for one in given["speedups"].split(","))))
    return given


def animated(
    input: SonicInput, still: Path, voice: Path, beat: Path | None, context: Context, engine: str = "neural"
) -> StageResult:
    """`portrait.mp4`, without sound. What the licence of the weights allows is said before the work."""
    who, place = check(input, engine), context.settings
    options = _options(input, who)
    if "preview_every" in who.options:
        options["preview_every"] = input.preview_every if context.on_preview else 0
    face_kit(context)  # a net that is missing is said before the work
    without = {
        name: f"the renderer {who.name} has nothing like it" for name in OPTIONS if OPTIONS[name] not in who.options
    }
    for name, why in {**who.ignores, **without}.items():
        if name in input.model_fields_set:
            context.cannot(name, getattr(input, name), why)
    if input.mode == "fast" and who.name == USUAL and "inference_steps" not in input.model_fields_set:
        context.note("mode fast takes fewer steps than inference_steps says, unless it is given")
    if (terms := _terms(who)) not in context.notes:
        context.note(terms)
    settings = input.model_dump(include={"min_resolution", "keep_resolution", "paste_back", "dynamic_scale", "seed"})
    inputs = {"still": still, "voice": voice} | ({"beat": beat} if beat and "beat" not in who.ignores else {})
    params: dict[str, Any] = {
        "renderer": who.name, "settings": settings, "device": place.device, "precision": place.precision,
        "options": {k: v for k, v in options.items() if k not in SAME},
        "own": engines.own(place, who.nets),
    }  # fmt: skip
    drawn = {
        kind: {k: v for k, v in params[kind].items() if k not in who.keeps} for kind in ("settings", "options")
    }  # fmt: skip
    name = context.workspace.key(STAGE, VERSION, inputs, params | drawn)[:24]

    def compute(stage: Stage) -> None:
        with trainings.alone(context.workspace.root, name, stage, FOLDER) as work:
            stage.meta.update(_performed(who, inputs, stage.folder / FILE, settings, options, work, context, stage))

    done = context.stage(STAGE, version=VERSION, inputs=inputs, params=params, compute=compute)
    if not who.keeps:  # else another size is shown from it, until newer ones or the cache's limit take its place
        shutil.rmtree(context.workspace.root / FOLDER / name, ignore_errors=True)  # the video is in its place
    context.nets.update(who.nets)
    return done


def _terms(who: About) -> str:
    """What may be done with the renderer's weights and with what it draws."""
    if "sonic-unet" in who.nets:
        from vividcover.weights import licence_of_portrait

        return licence_of_portrait().text
    allowed = {True: "commercial use allowed", False: "no commercial use", None: "ask its makers about commercial use"}
    return f"{who.name}: {who.licence or 'licence not stated'}; {allowed[who.commercial]}."


def _performed(
    who: About, inputs: dict[str, Path], out: Path, settings: dict[str, Any], options: dict[str, Any], work: Path,
    context: Context, stage: Stage,
) -> dict[str, Any]:  # fmt: skip
    from vividcover import tensors
    from vividcover.portrait.render import RenderSettings, perform
    from vividcover.portrait.stills import read_still
    from vividcover.weights import Shelf

    place = context.settings
    if who.engine == "neural":
        tensors.use_threads(place.threads)
        _make_room(context)
    means = renderers.Means(
        face_kit(context), Shelf(place.weights), work, place.device, place.precision, place.threads, options, stage,
        context.loaded,
    )  # fmt: skip
    stage.progress(0.0, f"loading {who.name}")
    renderer = renderers.open_renderer(who.name, means)
    mended: list[str] = []
    still = read_still(inputs["still"], mended)
    for note in mended:
        stage.note(note)
    report = perform(
        renderer, still, inputs["voice"], out, RenderSettings(**settings), beat=inputs.get("beat"), reporter=stage,
        on_preview=context.on_preview,
    )  # fmt: skip
    return report | {"notes": [*mended, *report.get("notes", [])]}


def _make_room(context: Context) -> None:
    """Takes FLUX out of a GPU's memory where there is not enough left for a portrait."""
    import torch

    from vividcover import tensors

    device = tensors.pick_device(context.settings.device)
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < ROOM:
        drawing.put_away(context)
