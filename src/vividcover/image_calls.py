"""Work with photos, LoRAs and many prompts, each on an open session: what the SDK and `vividcover image …` share.

Single pictures and trainings are in `calls.py`; here is what stands around them: looking at photos before a training,
captions, LoRA files in other programs' spelling, several LoRAs in one, batches, and trying several ways to train.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover import provenance
from vividcover.calls import Session, Source, story_of
from vividcover.catalog import drawing, image_learning, loras
from vividcover.catalog.contract import Context, Result, validated
from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTrainer, FluxDevLoraTraining, options_of
from vividcover.catalog.flux_lora import FluxLora, FluxLoraInput, several
from vividcover.catalog.steps import face_kit
from vividcover.errors import EngineError, ImageError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.image.ab import Outcome
    from vividcover.image.batch import Batch, Painted
    from vividcover.image.dataset import Dataset
    from vividcover.image.flux.config import FluxConfig
    from vividcover.image.flux.lorafile import Lora
    from vividcover.image.photos import Photo
    from vividcover.image.prompts.rows import Row
    from vividcover.image.score.panel import Panel

PLACEHOLDER = drawing.PLACEHOLDER
NOUNS = {"subject": "a person", "product": "a product"}  # what a trigger word of that type stands for
ROW_OPTIONS = frozenset(FluxLoraInput.model_fields) - {
    "prompt", "replicate_weights", "seed", "num_outputs", "aspect_ratio", "output_format",
}  # fmt: skip


# --- photos -----------------------------------------------------------------------------------------------------------


def examine_photos_in(
    session: Session, photos: Source, trigger_word: str = "TOK", kind: str = "subject",
    resolution: str = "512,768,1024",
) -> dict[str, Any]:  # fmt: skip
    """What a training on these photos would have to work with: findings, buckets, what is left out. Makes nothing."""
    from vividcover.image.doctor import examine
    from vividcover.portrait.faces import FaceKit

    context = session.context()
    with tempfile.TemporaryDirectory(prefix="vividcover-photos-") as folder:
        dataset = _dataset(context, photos, Path(folder) / "photos", trigger_word, kind, resolution, notes=False)
        found = examine(dataset, kit=FaceKit(session.settings.weights), reporter=session.workspace)
        return {**found.to_json(), "dataset": dataset.report, "text": found.text()}


def caption_photos_in(
    session: Session, photos: Source, output: Path, *, captioner: str = "auto", kind: str = "subject",
    trigger_word: str = "TOK", prefix: str = "", suffix: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The photos as a training would have them, upright and with a caption beside each, in the folder `output`.

    What lies there already is another data set or nothing: captions that were edited by hand are taken from `photos`.
    """
    from vividcover.image import captions
    from vividcover.image.captions import Endpoint
    from vividcover.weights import Shelf

    context, place = session.context(), session.settings
    endpoint = Endpoint(place.llm_url, key=place.llm_key, model=place.llm_model) if place.llm_url else None
    dataset = _dataset(context, photos, output, trigger_word, kind)
    made = captions.caption(
        dataset, captioner, prefix=prefix, suffix=suffix, weights=Shelf(place.weights), endpoint=endpoint,
        device=place.device, reporter=session.workspace,
    )  # fmt: skip
    return {**made.report, "folder": str(output), "captions": made.captions}


def _dataset(
    context: Context, photos: Source, folder: Path, trigger_word: str, kind: str, resolution: str = "512,768,1024",
    notes: bool = True,
) -> Dataset:  # fmt: skip
    from vividcover.image.dataset import DatasetOptions, prepare
    from vividcover.image.flux.options import TrainOptions

    options: Any = TrainOptions(trigger_word, kind=kind, resolution=resolution)  # type: ignore[arg-type]
    wanted = DatasetOptions(trigger_word, options.kind, options.resolutions)
    return prepare(context.file("photos", str(photos), folder=True), folder, wanted, context.workspace, notes=notes)


# --- LoRA files -------------------------------------------------------------------------------------------------------


def lora_about_in(session: Session, reference: str) -> dict[str, Any]:
    """What a LoRA is: base, rank, layers, key style, trigger word, licence, notes."""
    lora, card = _read(session.context(), reference)
    ranks = sorted({pair.a.shape[0] for pair in lora.pairs.values()})
    numbers = sum(pair.a.numel() + pair.b.numel() for pair in lora.pairs.values())
    return {
        "name": card.get("name"), "base": lora.base or card.get("base") or "not stated", "key_style": lora.format,
        "layers": len(lora.pairs), "ranks": ranks, "numbers": numbers,
        "trigger_word": card.get("trigger_word"), "type": card.get("type"), "steps": card.get("steps"),
        "licence": card.get("licence"), "commercial": card.get("commercial"), "consent": card.get("consent"),
        "notes": list(lora.notes),
    }  # fmt: skip


def convert_lora_in(
    session: Session, reference: str, output: Path, format: str = "diffusers", dtype: str = "fp16", rank: int = 0
) -> dict[str, Any]:
    """A LoRA in another program's spelling, read again and compared before it counts. `rank`: reduced to it by SVD."""
    lora, card = _read(session.context(output=output), reference)
    return _written(session, lora, card, output, format, dtype, rank)


def merge_loras_in(
    session: Session, references: Sequence[str], output: Path, format: str = "diffusers", dtype: str = "fp16",
    rank: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Several LoRAs (`NAME@0.8`) as one that does what they do together: exactly; with `rank` nearly, and smaller."""
    from vividcover.image.flux import triggers
    from vividcover.image.flux.merge import merge

    context = session.context(output=output)
    wanted = [one for text in references for one in several(text, "merge")]
    if len(wanted) < 2:
        raise ParameterError("One LoRA alone is not merged.", "Name two or more: vivi@1.0 oils@0.6.")
    read = [(_read(context, reference), scale) for reference, scale in wanted]
    words = [(str(card.get("name")), str(card["trigger_word"])) for (_, card), _ in read if card.get("trigger_word")]
    for warning in triggers.clashes(words):
        session.workspace.note(warning)
    lora = merge([(lora, scale) for (lora, _), scale in read])
    trigger = ", ".join(dict.fromkeys(word for _, word in words))
    length = next((card["text_length"] for (_, card), _ in read if card.get("text_length")), None)
    return _written(session, lora, {"trigger_word": trigger, "text_length": length}, output, format, dtype, rank)


def _written(
    session: Session, lora: Lora, card: Mapping[str, Any], output: Path, format: str, dtype: str, rank: int
) -> dict[str, Any]:
    from vividcover.image.flux.lorafile import write_lora
    from vividcover.image.flux.merge import reduce
    from vividcover.image.flux.package import TEXT_LENGTH

    if output.suffix != ".safetensors":
        raise ParameterError(f"{output.name} would hold a .safetensors.", f"Name it {output.stem}.safetensors.")
    told: dict[str, Any] = {"file": str(output), "format": format, "layers": len(lora.pairs)}
    if rank:
        before = lora.rank
        lora, error = reduce(lora, rank)
        told |= {"rank": lora.rank, "relative_error": float(error)}
        if lora.rank < before:
            said = f"rank {before} became {lora.rank}: what is lost is {float(error):.2%} of the change"
        else:
            said = f"its rank is {before} already: nothing was reduced"
        session.workspace.note(said)
    metadata = {"vividcover.trigger_word": str(card.get("trigger_word") or "")}
    metadata |= {TEXT_LENGTH: str(card["text_length"])} if card.get("text_length") else {}
    write_lora(output, lora, format, dtype=dtype, metadata=metadata, config=_config(session.settings))
    return told | {"bytes": output.stat().st_size}


def _read(context: Context, reference: str) -> tuple[Lora, dict[str, Any]]:
    from vividcover.image.flux.config import DEV
    from vividcover.image.flux.package import read_package

    trained = loras.lora(reference, context)
    lora, card = read_package(loras.lora_file(trained, context), _config(context.settings) or DEV)
    for note in lora.notes:
        context.workspace.note(f"{trained.name}: {note}")
    return lora, {"name": trained.name, **{k: v for k, v in card.items() if v is not None}}


def _config(settings: Settings) -> FluxConfig | None:
    """The numbers of a FLUX of the user's own; None where it is the published one, or none is here."""
    from vividcover.image.flux.checkpoint import read_config

    own = settings.weight_files.get("flux-dev")
    return read_config(own) if own is not None and own.exists() else None


# --- many prompts -----------------------------------------------------------------------------------------------------


def batch_in(
    session: Session, trained: str, rows: Path | Sequence[Any], folder: Path, *, top: int = 0, per_row: int = 0,
    seed: int = 0, scores: str = "auto", references: Source | None = None, options: Mapping[str, Any] | None = None,
) -> Batch:  # fmt: skip
    """Every prompt of a table drawn, scored, the `top` best chosen; stopped, it goes on where it was.

    `scores`: "auto", "none" or names with commas; `references`: photos that likeness is compared with.
    """
    from vividcover.image.batch import batch
    from vividcover.image.prompts.library import Library
    from vividcover.image.prompts.rows import read_rows

    context = session.context()
    card = loras.lora(trained, context).card
    values = {k: v for k, v in (options or {}).items() if k not in ("seed", "num_outputs")}
    trigger = str(card.get("trigger_word") or PLACEHOLDER)
    library = Library(session.settings.home / "prompts.json")
    found = read_rows(rows, options=ROW_OPTIONS, trigger=trigger, library=library)
    engine = _engine(session, trained, values, context)
    noun = NOUNS.get(str(card.get("type")), "")
    panel = None if scores == "none" else _panel(session, context, scores, references, trigger, noun)

    def ratio(row: Row) -> dict[str, Any]:
        """A line that says nothing has the batch's own."""
        return {} if row.aspect_ratio == "1:1" and "aspect_ratio" in values else {"aspect_ratio": row.aspect_ratio}

    def draw(row: Row, seed: int) -> Result:
        asked = {
            **values, "replicate_weights": trained, "prompt": row.prompt, **ratio(row),
            **row.options, "seed": seed,
        }  # fmt: skip
        return FluxLora().run(validated(FluxLora.name, FluxLoraInput, asked), session.context())

    def paint(row: Row, reporter: Reporter) -> list[Painted]:
        return _painted(draw, row, session)

    done = batch(
        found, paint, panel.judge if panel else None, top=top, per_row=per_row, folder=folder, seed=seed,
        about={"trained": [m["sha256"] for m in context.materials], "options": dict(values)},
        scored_by=panel.legend() if panel else None, engine=engine, reporter=session.workspace,
    )  # fmt: skip
    numbered = {row.number: row for row in found}
    for shot in done.shots:  # asked for again, a picture comes out of the cache, with all that is known of it
        if not provenance.record_path(shot.file).exists():
            provenance.sidecar(shot.file, story_of(draw(numbered[shot.row], shot.seed), [shot.file]))
    return done


def _engine(session: Session, trained: str, values: Mapping[str, Any], context: Context) -> str:
    """Who draws with this image."""
    input = validated(FluxLora.name, FluxLoraInput, {**values, "replicate_weights": trained, "prompt": "any"})
    model = FluxLora()
    return model.choose(session.engine, session.settings, model.reader(input, context), input)[0]


def _painted(draw: Callable[[Row, int], Result], row: Row, session: Session) -> list[Painted]:
    """The pictures of one row, each a run of its own. Raises `ImageError` when none of them may be given out."""
    from vividcover.image.batch import Painted

    made: list[Painted] = []
    assert row.seed is not None  # the batch has chosen it
    for seed in range(row.seed, row.seed + row.count):
        try:
            made.append(Painted(seed, draw(row, seed).path))
        except ImageError as error:
            if seed == row.seed + row.count - 1 and not made:
                raise
            session.workspace.note(f"line {row.number}, seed {seed}: {error.message}")
    return made


def _panel(
    session: Session, context: Context, scores: str, references: Source | None, trigger: str, noun: str
) -> Panel:
    """Who judges: nets that are here, and the face as the classic engine knows it.

    CLIP cannot know a trigger word: it reads `noun` in its place.
    """
    from vividcover.image.photos import read_photos
    from vividcover.image.score.panel import open_panel
    from vividcover.weights import Shelf

    pictures: list[Any] = []
    if references:
        source = context.file("references", str(references), folder=True)
        with tempfile.TemporaryDirectory(prefix="vividcover-photos-") as folder:
            pictures = [photo.rgb() for photo in read_photos(source, Path(folder)).photos]
    return open_panel(
        scores, weights=Shelf(session.settings.weights), references=pictures, device=session.settings.device,
        kit=face_kit(context) if pictures else None, trigger=trigger, noun=noun, reporter=session.workspace,
    )  # fmt: skip


def _photos(session: Session, source: Path) -> list[Photo]:
    """Their names and captions; the pictures themselves are gone again."""
    from vividcover.image.photos import read_photos

    with tempfile.TemporaryDirectory(prefix="vividcover-photos-") as folder:
        return list(read_photos(source, Path(folder)).photos)


# --- several ways to train --------------------------------------------------------------------------------------------


def compare_in(
    session: Session, photos: Source, variants: Mapping[str, Mapping[str, Any]], name: str, consent: str, folder: Path,
    *, options: Mapping[str, Any] | None = None, prompts: Sequence[str] = (), seeds: Sequence[int] = (0, 1),
    scores: str = "auto", drawing: Mapping[str, Any] | None = None,
) -> Outcome:  # fmt: skip
    """Trains every variant on the same photos, scores it on prompts that none of them saw, shelves the best as `name`.

    `variants`: name → inputs of `ostris/flux-dev-lora-trainer` that it changes; `options`: those that all share;
    `drawing`: inputs of `vividcover/flux-lora` that all are drawn with.
    """
    from vividcover.catalog import shelf
    from vividcover.image.ab import compare, held_out

    trainer, context = FluxDevLoraTrainer(), session.context(consent)
    shelf.check_name(name)
    trainer.check_consent(consent)
    shared = {"input_images": str(photos), **(options or {})}
    inputs = {key: _wanted(shared | dict(changes), key) for key, changes in variants.items()}  # says all faults first
    if lacks := trainer.neural_lacks(session.settings, None, True):
        raise EngineError(f"Ways to train can be compared on the neural engine only, and {lacks}.", "Get it first.")
    asked = {"output_format": "png", **(drawing or {}), "prompt": "any"}
    still: FluxLoraInput = validated(FluxLora.name, FluxLoraInput, asked)
    if lacks := FluxLora().neural_lacks(session.settings, still):
        raise EngineError(f"The ways to train could not be drawn with: {lacks}.", "Get it first.")
    source = context.file("input_images", str(photos), folder=True)
    trigger = str(shared.get("trigger_word", PLACEHOLDER))
    kind = str(shared.get("kind") or shared.get("lora_type") or "subject")

    def train(changes: Mapping[str, Any], out: Path, reporter: Reporter) -> Mapping[str, Any]:
        input = next(one for key, one in inputs.items() if dict(variants[key]) == dict(changes))
        made = image_learning.learnt(
            source, name, options_of(input), session.context(consent), full=input.finetune_type == "full"
        )
        assert isinstance(made.output, Path)
        shutil.copy(made.output, out)
        return dict(made.details["report"])

    def paint(model: Path, prompt: str, seeds: Sequence[int], reporter: Reporter) -> list[Painted]:
        from vividcover.image.batch import Painted

        values = {"output_format": "png", **(drawing or {}), "replicate_weights": str(model), "prompt": prompt}
        made = [FluxLora().run(values | {"seed": seed}, session.context()) for seed in seeds]
        return [Painted(seed, result.path) for seed, result in zip(seeds, made, strict=True)]

    panel = _panel(session, context, scores, photos, trigger, NOUNS.get(kind, ""))
    captions = [photo.caption for photo in _photos(session, source) if photo.caption]
    told = {"photos": context.inputs["input_images"]["sha256"], "options": dict(shared), "drawing": dict(drawing or {})}
    tar = folder / f"{name}.tar"
    outcome = compare(
        variants, train, paint, panel.judge, prompts=list(prompts) or held_out(trigger, _kind(kind)), seeds=seeds,
        folder=folder, out=tar, trigger=trigger, captions=captions, about=told, reporter=session.workspace,
    )  # fmt: skip
    shelf.shelve("image", name, tar, session.settings)
    return outcome


def _wanted(values: Mapping[str, Any], variant: str) -> FluxDevLoraTraining:
    try:
        found: FluxDevLoraTraining = validated(FluxDevLoraTrainer.name, FluxDevLoraTraining, dict(values))
    except ParameterError as error:
        raise ParameterError(f"{variant}: {error.message}", error.hint) from None
    return found


def _kind(kind: str) -> Any:
    return kind if kind in ("style", "product") else "subject"
