"""Pictures by the neural engine: what the image models of the catalog have in common, around `image/flux/generate.py`.

    wish = Wish("dev", input.prompt, input.seed, width, height, loras=[Worn(trained, 1.0)])
    done = drawn(FluxLora.name, wish, context)        # a stage; meta has `files` and `report`

A LoRA may be one that our training made, a published one (tar, zip or bare file), or one inside a model that was
trained on the hosted engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vividcover import provenance
from vividcover.catalog import engines, loras, shelf
from vividcover.catalog.contract import Context
from vividcover.settings import Settings
from vividcover.workspace import Stage, StageResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from vividcover.image.flux.config import FluxConfig
    from vividcover.image.flux.generate import Painter
    from vividcover.image.flux.lora import Wearing
    from vividcover.image.flux.lorafile import Lora

Kind = Literal["dev", "schnell", "fill", "canny", "depth"]
GUARDS = ("safety-checker", "nsfw-detector")
PLACEHOLDER = "TOK"  # what prompts call the subject whose trigger word they do not know
SMALL_GPU, TINY_GPU = 40e9, 20e9  # bytes: below, FLUX is held in 8 and in 4 bits
ROOMY_GPU = 48e9  # bytes: from here on, text encoders, FLUX and autoencoder stay beside each other


@dataclass(frozen=True)
class Worn:
    """A LoRA to draw with: how strongly, and where (`mask`: a picture, white there)."""

    trained: shelf.Trained
    scale: float = 1.0
    mask: Path | None = None


@dataclass(frozen=True)
class Wish:
    """What to draw. None: the base's own. `more` are further fields of `flux.request.Request`."""

    kind: Kind
    prompt: str
    seed: int
    width: int
    height: int
    count: int = 1
    steps: int | None = None
    guidance: float | None = None
    loras: Sequence[Worn] = ()
    image: Path | None = None
    mask: Path | None = None
    redux: Path | None = None
    control: Path | None = None
    more: dict[str, Any] = field(default_factory=dict)
    upsampling: bool = False
    fast: bool = False
    checked: bool = True
    text_length: int | None = None
    format: str = "png"
    quality: int = 90


# --- what it needs ----------------------------------------------------------------------------------------------------


def needed(
    settings: Settings, kind: Kind = "dev", *, redux: bool = False, depth: bool = False, checked: bool = True
) -> list[str]:
    """The nets that a picture needs, by their names in the weights registry."""
    found = base_nets(settings, kind)
    found += ["flux-redux"] if redux else []
    found += ["depth-anything-v2-small"] if depth else []
    return [*found, *(GUARDS if checked else ())]


def base_nets(settings: Settings, kind: Kind = "dev") -> list[str]:
    """FLUX itself. A whole diffusers folder of one's own brings its text encoders and autoencoder along."""
    own = settings.weight_files.get(f"flux-{kind}")
    whole = own is not None and (own / "text_encoder").is_dir() and (own / "vae").is_dir()
    return [f"flux-{kind}", *(() if whole else ("flux-text", "flux-vae"))]


def lacks(settings: Settings, nets: Sequence[str]) -> str:
    """What is missing here for the neural engine to draw, in words; "" when nothing is."""
    return engines.missing(settings, nets)


# --- the stage ----------------------------------------------------------------------------------------------------


def drawn(model: str, wish: Wish, context: Context) -> StageResult:
    """`wish.count` pictures; meta has `files` (those that passed the safety checks) and `report`."""
    given = {"image": wish.image, "mask": wish.mask, "redux": wish.redux, "control": wish.control}
    files = {name: path for name, path in given.items() if path}
    for i, worn in enumerate(wish.loras):
        files[f"lora{i}"] = loras.lora_file(worn.trained, context)
        files |= {f"region{i}": worn.mask} if worn.mask else {}
    place = context.settings
    nets = needed(
        place, wish.kind, redux=bool(wish.redux), checked=wish.checked,
        depth=wish.kind == "depth" and not wish.more.get("preprocessed"),
    )  # fmt: skip

    def compute(stage: Stage) -> None:
        _paint(model, wish, files, context, stage)

    plain = {k: getattr(wish, k) for k in wish.__dataclass_fields__ if k not in {"loras", *given}}
    params = plain | {
        "model": model, "names": [worn.trained.name for worn in wish.loras],
        "scales": [worn.scale for worn in wish.loras], "device": place.device,
        "precision": place.precision, "own": engines.own(place, nets),
        "writer": [place.llm_url, place.llm_model] if wish.upsampling else None,
    }  # fmt: skip
    _say_licence(wish, context)
    done = context.stage("image/paint", version=1, inputs=files, params=params, compute=compute)
    context.nets.update(nets)
    return done


def _say_licence(wish: Wish, context: Context) -> None:
    """What may be done with the pictures; once, however many are drawn."""
    from vividcover.weights import licence_of

    bases = [wish.kind, *(["redux"] if wish.redux else [])]
    trained_on = {str(worn.trained.card.get("base", "")) for worn in wish.loras}
    text = licence_of(*bases, doing="generation", trained_on="dev" if "dev" in trained_on else "").text
    if text not in context.notes:
        context.note(text)


def _paint(model: str, wish: Wish, files: dict[str, Path], context: Context, stage: Stage) -> None:
    from vividcover.image.flux.request import Request

    painter = _painter(wish, context, stage)
    wearing, cards = _loras(wish, files, painter.base.config, stage)
    prompt, how = _prompt(wish, cards, context, stage)
    length = wish.text_length or next((int(c["text_length"]) for c in cards if c.get("text_length")), None)
    request = Request(
        prompt, wish.width, wish.height, wish.count, wish.seed, wish.steps, wish.guidance, length,
        image=_rgb(files.get("image"), wish), mask=_grey(files.get("mask"), wish), redux=_rgb(files.get("redux")),
        control=_rgb(files.get("control"), wish), loras=tuple(wearing), checked=wish.checked, **wish.more,
    )  # fmt: skip
    names: list[str] = []
    pictures = painter.paint(request, stage)
    for i, picture in enumerate(pictures):
        if not picture.safe:
            stage.note(f"the picture of seed {picture.seed} was {picture.why or 'held back'} and is not given out")
            continue
        names.append(f"still-{i}.{wish.format}" if wish.count > 1 else f"still.{wish.format}")
        provenance.save_picture(
            picture.rgb, stage.folder / names[-1], format=wish.format, quality=wish.quality, engine="neural",
            description=f"{model}, neural engine, FLUX.1 [{wish.kind}], seed {picture.seed}.",
        )  # fmt: skip
    report = {
        "prompt": prompt, "written_by": how, "base": wish.kind, "seeds": [p.seed for p in pictures],
        "held_back": [p.seed for p in pictures if not p.safe], "size": [wish.width, wish.height],
        "text_length": length,
        "loras": [{"name": w.trained.name, "scale": w.scale, "region": bool(w.mask)} for w in wish.loras],
    }  # fmt: skip
    stage.meta.update(files=names, file=names[0], report=report)


def _painter(wish: Wish, context: Context, stage: Stage) -> Painter:
    """FLUX, loaded: the last one stays in memory, for the next picture."""
    from vividcover import tensors
    from vividcover.image.flux.depth import Depth
    from vividcover.image.flux.generate import Painter
    from vividcover.image.flux.opening import base_files, open_base
    from vividcover.image.flux.redux import Redux
    from vividcover.image.flux.safety import Guard
    from vividcover.weights import Shelf

    place = context.settings
    weights = Shelf(place.weights)
    tensors.use_threads(place.threads)
    device = tensors.pick_device(place.device)
    dtype = tensors.pick_dtype(device, place.precision)
    held = _held(device, wish, stage)
    name = f"{wish.kind} {device} {dtype} {held} {engines.own(place, [f'flux-{wish.kind}'])}"
    if context.loaded.get("painter") != name:
        context.loaded.pop(context.loaded.pop("painter", ""), None)
        stage.progress(0.0, f"loading FLUX.1 [{wish.kind}]")
        for name_of in list(context.loaded) if _lean(device) else ():
            context.loaded.pop(name_of)  # what else lies in a small GPU's memory, such as a portrait's nets
        base = open_base(base_files(wish.kind, weights), device=device, dtype=dtype, quantise=held, training=False)
        fresh = Painter(base, lean=_lean(device), compiled=device.type == "cuda" and wish.fast)
        context.loaded |= {name: fresh, "painter": name}
    painter: Painter = context.loaded[name]
    if wish.checked and painter.guard is None:
        painter.guard = Guard.from_weights(weights, device=device)
    if wish.redux and painter.redux is None:
        siglip = weights.path("siglip") if weights.has("siglip") else None
        painter.redux = Redux(weights.path("flux-redux"), siglip, device=device, dtype=dtype)
    if wish.kind == "depth" and painter.depth is None and not wish.more.get("preprocessed"):
        painter.depth = Depth(weights.path("depth-anything-v2-small"), device=device)
    return painter


def put_away(context: Context) -> None:
    """Takes FLUX out of memory, before a training in the same process needs it."""
    painter: Painter | None = context.loaded.pop(context.loaded.pop("painter", ""), None)
    if painter is not None:
        painter.base.release("text")
        painter.base.release("vae")
        painter.base.release("flux")


def _held(device: Any, wish: Wish, stage: Stage) -> Literal["none", "fp8", "nf4"]:
    """In how many bits FLUX lies in the memory of this device."""
    import torch

    if device.type != "cuda":
        if wish.fast:
            stage.note("go_fast: numbers of 8 bits bring nothing without a CUDA device; they are left as they are")
        return "none"
    size = torch.cuda.get_device_properties(device).total_memory
    if size < TINY_GPU:
        return "nf4"
    return "fp8" if wish.fast or size < SMALL_GPU else "none"


def _lean(device: Any) -> bool:
    """Whether the text encoders (10 GB) have to go before FLUX itself (24 GB, or less in 8 or 4 bits) draws."""
    import torch

    return device.type == "cuda" and bool(torch.cuda.get_device_properties(device).total_memory < ROOMY_GPU)


# --- LoRAs and words ----------------------------------------------------------------------------------------------


def _loras(
    wish: Wish, files: dict[str, Path], config: FluxConfig, stage: Stage
) -> tuple[list[Wearing], list[dict[str, Any]]]:
    """The LoRAs as the painter takes them, and their cards; what does not go well together is said."""
    from vividcover.image.flux.lora import Wearing
    from vividcover.image.flux.package import read_package

    wearing: list[Wearing] = []
    cards: list[dict[str, Any]] = []
    for i, worn in enumerate(wish.loras):
        lora, card = read_package(files[f"lora{i}"], config)
        for note in lora.notes:
            stage.note(f"{worn.trained.name}: {note}")
        _fits(lora, wish, worn, stage)
        mask = _tokens(files[f"region{i}"], wish) if worn.mask else None
        wearing.append(Wearing(lora, worn.scale, mask))
        cards.append({**worn.trained.card, **card})
    _clashes(wish, cards, stage)
    return wearing, cards


def _fits(lora: Lora, wish: Wish, worn: Worn, stage: Stage) -> None:
    """Says what a LoRA of another base than the one that draws means."""
    if wish.kind == "schnell" and lora.base in ("", "dev"):
        stage.note(
            f"{worn.trained.name}: a LoRA of FLUX.1 [dev] on [schnell]; it works, and looks less like what it learnt"
        )


def _clashes(wish: Wish, cards: list[dict[str, Any]], stage: Stage) -> None:
    """Warnings about trigger words that meet each other."""
    if len(cards) < 2:
        return
    from vividcover.image.flux import triggers

    pairs = [(worn.trained.name, str(card.get("trigger_word") or "")) for worn, card in zip(wish.loras, cards)]
    for warning in triggers.clashes([pair for pair in pairs if pair[1]]):
        stage.note(str(warning))


def _prompt(wish: Wish, cards: list[dict[str, Any]], context: Context, stage: Stage) -> tuple[str, str]:
    """(the prompt, who wrote it). `TOK` stands for a trigger word that the prompt does not have."""
    from vividcover.image.flux.upsample import Writer, upsample
    from vividcover.image.prompts.layers import names

    prompt = wish.prompt
    words = [str(card["trigger_word"]) for card in cards if card.get("trigger_word")]
    if words and not names(prompt, words[0]):
        if words[0] != PLACEHOLDER and names(prompt, PLACEHOLDER):
            prompt = prompt.replace(PLACEHOLDER, words[0])
            stage.note(f"{PLACEHOLDER} in the prompt is read as {words[0]}, the trigger word of the image")
        else:
            stage.note(f"the prompt does not have the trigger word {words[0]}: the picture may show somebody else")
    if not wish.upsampling:
        return prompt, "you"
    place = context.settings
    writer = Writer(place.llm_url, place.llm_key, place.llm_model) if place.llm_url else None
    kind: Literal["subject", "style"] = "style" if cards and cards[0].get("type") == "style" else "subject"
    said = upsample(prompt, triggers=words, seed=wish.seed, kind=kind, writer=writer, reporter=stage)
    stage.note(f"prompt, written out: {said.text}")
    return said.text, said.by


# --- pictures that go in ------------------------------------------------------------------------------------------


def _rgb(path: Path | None, wish: Wish | None = None) -> Any:
    """uint8 [H,W,3] of a picture, at the wish's size where it has one; transparent parts are white."""
    import numpy as np
    from PIL import Image

    from vividcover.catalog.pictures import opened

    if path is None:
        return None
    picture = opened(path)
    if "A" in picture.getbands():
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return np.asarray(_sized(picture.convert("RGB"), wish))


def _grey(path: Path | None, wish: Wish) -> Any:
    """uint8 [H,W] of a mask at the wish's size."""
    import numpy as np

    from vividcover.catalog.pictures import opened

    return np.asarray(_sized(opened(path).convert("L"), wish)) if path else None


def _sized(picture: Image, wish: Wish | None) -> Image:
    from PIL import Image as pillow

    size = (wish.width, wish.height) if wish else picture.size
    return picture if picture.size == size else picture.resize(size, pillow.Resampling.LANCZOS)


def _tokens(path: Path, wish: Wish) -> Any:
    """A region for a LoRA: float32 [N] of 0 to 1, one number for each token of 16 x 16 px, row by row."""
    import numpy as np
    import torch
    from PIL import Image as pillow

    from vividcover.catalog.pictures import opened

    mask = opened(path).convert("L").resize((wish.width // 16, wish.height // 16), pillow.Resampling.BOX)
    return torch.from_numpy(np.asarray(mask, np.float32).reshape(-1) / 255)
