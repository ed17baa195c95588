"""From a song to what a voice model is to sing: separators in a row.

    story = separate_song(song, folder, Options(vocals="htdemucs_ft"), weights=weights.path)

    song ─ vocals ──► instrumental                      folder/instrumental.wav
             └─ karaoke ──► backing vocals              folder/backing.wav
                   └─ dereverb ──► the room, dropped
                         └─ main vocals, dry            folder/vocals.wav

The stages after the first may be left out. Without `dereverb` the files sum to the song; with it, what is missing is
the room around the main voice, which the mix puts back by its own reverb.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vividcover.errors import WeightsError
from vividcover.song.pcm import PcmReader
from vividcover.song.separators.known import KNOWN, PARTS, Files, Known, Stage, known, load, ranked, serves
from vividcover.weights import Resolver, Shelf
from vividcover.workspace import Reporter, Silent

ORIGINAL = "original"  # as the name of what takes the vocals out: the whole chain of AICoverGen
STAGES: tuple[Stage, ...] = ("vocals", "karaoke", "dereverb")
LEFT_OUT = {  # what is said where no net of a stage is here
    "karaoke": "no net that tells main from backing vocals is here; backing vocals stay with the main voice",
    "dereverb": "no net that takes the room off is here; the voice keeps its room",
}
COST = {"mdx": 1.0, "demucs": 1.2, "roformer": 12.0}  # of a second of song, roughly, for the progress bar alone


@dataclass(frozen=True)
class Options:
    """Which separator serves each stage: a name of `known.KNOWN`, "auto", or None (leave the stage out).

    "auto" takes the best one whose weights are here; the later stages are left out where there is none, and slow nets
    are taken there only with a GPU. `vocals="original"` stands for the chain of AICoverGen: its three nets, in parity
    mode, denoised. `mode` and `denoise` concern MDX-Net alone (see `mdx.py`).
    """

    vocals: str = "auto"
    karaoke: str | None = "auto"
    dereverb: str | None = "auto"
    mode: Literal["overlap", "parity"] = "overlap"
    denoise: bool = False


def best_available(weights: Path | Resolver, device: str = "auto") -> list[str]:
    """Separators of vocals whose weights and packages are here, best first. Quick: no file is hashed."""
    shelf = Shelf(weights) if isinstance(weights, Path) else weights
    return [k.name for k in ranked("vocals", _gpu(device)) if serves(k, device) and shelf.has(k.weights)]


def choose(
    options: Options, weights: Files, device: str = "auto", note: Callable[[str], object] | None = None
) -> Options:
    """The options with every "auto" resolved by what is here: what a cached result should be keyed by.

    `note` is told what is left out, and why.
    Raises `ParameterError` for a name that is not known, `WeightsError` where nothing can take the vocals out.
    """
    if options.vocals == ORIGINAL:
        return Options("uvr_mdx_voc_ft", "uvr_mdx_kara_2", "uvr_mdx_reverb_hq", "parity", True)
    gpu = _gpu(device) if "auto" in (options.vocals, options.karaoke, options.dereverb) else True
    chosen: dict[Stage, str | None] = {}
    for stage in STAGES:
        name: str | None = getattr(options, stage)
        if name and name != "auto":
            chosen[stage] = known(name, stage).name
        elif name:
            chosen[stage] = _first(stage, weights, gpu, device)
    if chosen.get("vocals") is None:
        raise WeightsError(
            "There are no weights here that take vocals out of a song.",
            "Run `vividcover weights pull --group separation` (best, for a GPU) or `--group mdx` (small).",
        )
    for stage in STAGES[1:]:
        if note and getattr(options, stage) == "auto" and chosen[stage] is None:
            note(f"Separation: {LEFT_OUT[stage]}.")
    return replace(
        options, vocals=str(chosen["vocals"]), karaoke=chosen.get("karaoke"), dereverb=chosen.get("dereverb")
    )


def separate_song(
    song: Path,
    folder: Path,
    options: Options | None = None,
    *,
    weights: Files,
    device: str = "auto",
    threads: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Writes `vocals.wav`, `instrumental.wav` and, with `karaoke`, `backing.wav` (PCM like the song) into `folder`.

    Returns JSON: `recipe`, `why`, `nets` (names of the weights that were used), `options` as they were carried out.
    Raises `AudioError` (a song of another rate), `WeightsError`, `EngineError`, `ParameterError`, and `Canceled`
    within a second of being asked to stop. Memory does not grow with the song.
    """
    reporter = reporter or Silent()
    options = choose(options or Options(), weights, device, reporter.note)
    wanted = [known(name, stage) for stage in STAGES if (name := getattr(options, stage))]
    for item in wanted:
        weights(item.weights)  # what is missing is said before the work, not after the first stage
    _foresee(song, wanted, device, reporter)
    folder.mkdir(parents=True, exist_ok=True)
    heard, done, kept = song, 0.0, dict[str, Path]()
    whole = sum(COST[k.kind] for k in wanted)
    with _aside(folder) as work:
        for item in wanted:
            separator = load(item, weights, mode=options.mode, denoise=options.denoise, device=device, threads=threads)
            span = (done / whole, (done + COST[item.kind]) / whole)
            files = separator.separate(heard, work / item.stage, reporter=reporter, span=span)
            del separator  # before the next one's weights come
            first, second = PARTS[item.stage]
            if heard != song:
                heard.unlink()
            heard, kept[second], done = files[first], files[second], span[1] * whole
        kept["vocals"] = heard
        for name in ("vocals", "instrumental", "backing"):
            (folder / f"{name}.wav").unlink(missing_ok=True)  # of an earlier call
            if name in kept:
                kept[name].replace(folder / f"{name}.wav")
    recipe = ", ".join(item.name for item in wanted)
    reporter.note(f"Separation: {recipe}.")
    reporter.progress(1.0, "separated")
    return {
        "recipe": recipe, "why": f"on {device}" + (f", {options.mode} mode" if options.mode != "overlap" else ""),
        "nets": [item.weights for item in wanted], "options": asdict(options),
    }  # fmt: skip


def _first(stage: Stage, weights: Files, gpu: bool, device: str) -> str | None:
    """The best separator of a stage that is here; for the later stages, no slow one without a GPU."""
    for item in ranked(stage, gpu):
        if not serves(item, device) or (item.slow and not gpu and stage != "vocals"):
            continue
        try:
            weights(item.weights)
        except WeightsError:
            continue
        return item.name
    return None


def _gpu(device: str) -> bool:
    """Whether there is a GPU to separate on."""
    if device != "auto":
        return device.split(":")[0] in ("cuda", "mps")
    from vividcover import tensors

    return not tensors.available() and tensors.pick_device("auto").type != "cpu"


def _foresee(song: Path, wanted: list[Known], device: str, reporter: Reporter) -> None:
    """Says so where a slow net meets a CPU, and where a GPU will not be used. Raises `EngineError` where it must be."""
    slow, gpu = [item.name for item in wanted if item.slow], _gpu(device)
    if slow and not gpu:
        with PcmReader(song) as reader:
            minutes = reader.seconds / 60
        quick = ", ".join(k.name for k in KNOWN.values() if not k.slow and k.stage == "vocals")
        reporter.note(
            f"Separation: {', '.join(slow)} without a GPU takes many times the song's {minutes:.1f} minutes; "
            f"{quick} are quick."
        )
    if any(item.kind == "mdx" for item in wanted):
        from vividcover.song.separators import mdx

        if not mdx.on_gpu(device) and gpu:
            reporter.note(
                "Separation: MDX-Net runs on the CPU; onnxruntime-gpu in onnxruntime's place would use the GPU."
            )


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder for what comes between the stages."""
    work = folder / ".parts"
    shutil.rmtree(work, ignore_errors=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
