"""Voice conversion: whose voice is heard, and what is still understood; ours beside the prototype's two recipes.

Synthetic voices come from the sample set (sample singer → Vivi, Vivi → sample singer). Real ones are given by the user,
who may keep recordings that the project may not: FOLDER/<speaker>/*.wav|flac|mp3|ogg, two speakers or more, each best
with a minute in several files. A speaker's last files are the reference and are never trained on. Their texts are not
known, so clarity is what the phone recogniser hears against what it heard before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import soxr

from cases import SAMPLE, Array, load
from figures import ratio
from machine import ask_judges, spent
from peers import prototype_voice as prototype
from vividcover.song.pcm import RATE, read_pcm, write_pcm
from vividcover.voice.classic.convert import Conversion, convert
from vividcover.voice.classic.train import train

AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
RECIPES = ("M", "WMd")
HELD_SHARE = 0.35  # of a speaker with one file only, cut off its end as the reference
SOURCE_SECONDS = 10.0  # of another speaker's held-out recordings that are converted
CONSENT = "Measurement of recordings that the person running the bench may use for this."
Row = dict[str, Any]


@dataclass
class Speaker:
    """`learn`: recordings to train on; `held`: recordings the training never sees (mono float32 [n] at 44.1 kHz)."""

    name: str
    learn: list[Array]
    held: list[Array]


@dataclass
class Pair:
    """`source` [n] is converted to `target`; `original`: other clips of who is heard in it; `text` is "" if unknown."""

    name: str
    source: Array
    original: list[Array]
    target: Speaker
    text: str


# --- material ------------------------------------------------------------------------------------------------------


def synthetic(quick: bool) -> list[Pair]:
    """The sample singer and Vivi, both ways: sung by him → her voice, sung and spoken by her → his."""
    clips = {k: _mono(SAMPLE / "voice" / f"voice_{k:02d}{'_sung' if k > 13 else ''}.flac") for k in range(1, 17)}
    song, lyrics = _mono(SAMPLE / "song" / "vocals.flac"), (SAMPLE / "song" / "lyrics.txt").read_text().splitlines()
    vivi = Speaker("Vivi", [clips[k] for k in range(1, 5 if quick else 9)], [clips[k] for k in range(9, 13)])
    singer = Speaker("sample singer", [song[: int(20.7 * RATE)]], [song[int(20.7 * RATE) :]])
    verse, chorus = (song[int(a * RATE) : int(b * RATE)] for a, b in ((2.4, 12.9), (15.4, 29.6)))
    spoken = [clips[k] for k in range(1, 5)]
    pairs = [Pair("singer's verse → Vivi", verse, [chorus], vivi, " ".join(lyrics[:4]))]
    if not quick:
        pairs += [
            Pair("singer's chorus → Vivi", chorus, [verse], vivi, " ".join(lyrics[4:])),
            Pair("Vivi sings → singer", np.concatenate([clips[15], clips[16]]), spoken, singer,
                 "I will sing it in my own way slow and easy high and low"),
            Pair("Vivi speaks → singer", clips[12], spoken, singer,
                 "If you can hear me smile while I am talking then the microphone is doing its job"),
        ]  # fmt: skip
    return pairs


def real(folder: Path, quick: bool) -> list[Pair]:
    """Each speaker's held-out recording in the next one's voice, and the other way round."""
    people = [s for s in (_speaker(f, quick) for f in sorted(folder.iterdir()) if f.is_dir()) if s]
    if len(people) < 2:
        raise SystemExit(f"{folder}: found {len(people)} speaker(s); two folders of recordings are needed.")
    steps = [(a, b) for k, a in enumerate(people) for b in (people[(k + 1) % len(people)],)]
    steps += [(b, a) for a, b in steps if len(people) > 2]
    pairs = []
    for source, target in steps[: 2 if quick else 16]:
        words = np.concatenate(source.held)[: int(SOURCE_SECONDS * RATE)]
        pairs.append(Pair(f"{source.name} → {target.name}", words, source.learn, target, ""))
    return pairs


def _speaker(folder: Path, quick: bool) -> Speaker | None:
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in AUDIO]
    clips = [_mono(f) for f in files]
    if not clips:
        return None
    if len(clips) == 1:
        cut = int(len(clips[0]) * (1 - HELD_SHARE))
        return Speaker(folder.name, [clips[0][:cut]], [clips[0][cut:]])
    keep = max(1, len(clips) // 4)
    most, learn = (40.0 if quick else 300.0), []
    for clip in clips[:-keep]:
        if sum(map(len, learn)) / RATE < most:
            learn.append(clip)
    return Speaker(folder.name, learn, clips[-keep:])


def _mono(path: Path) -> Array:
    return np.asarray(load(path).mean(axis=0), np.float32)


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(pairs: list[Pair], work: Path, threads: int) -> dict[str, Any]:
    """Rows per pair, means, and ratios to the prototype's WMd. The files stay in `work` for the sheets."""
    work.mkdir(parents=True)
    trained: dict[str, tuple[Path, prototype.Target]] = {}
    rows, jobs = [], []
    for number, pair in enumerate(pairs):
        folder = work / f"{number:02d}"
        if pair.target.name not in trained:
            trained[pair.target.name] = _train(pair.target, work / f"voice{len(trained)}", threads)
        row = _convert(pair, folder, trained[pair.target.name], threads)
        rows.append(row)
        jobs += _questions(pair, folder)
    answers = ask_judges(jobs)
    each = len(answers) // len(rows)
    for k, row in enumerate(rows):
        _read(row, answers[k * each : (k + 1) * each])
    return {"rows": rows, **_sum_up(rows)}


def _train(target: Speaker, folder: Path, threads: int) -> tuple[Path, prototype.Target]:
    folder.mkdir()
    clips = [write_pcm(folder / f"clip{k}.wav", clip) for k, clip in enumerate(target.learn)]
    train(clips, folder / "voice.zip", name="bench", consent=CONSENT, threads=threads)
    return folder / "voice.zip", prototype.learn([soxr.resample(clip, RATE, prototype.RATE) for clip in target.learn])


def _convert(pair: Pair, folder: Path, voices: tuple[Path, prototype.Target], threads: int) -> Row:
    folder.mkdir()
    stereo = write_pcm(folder / "stereo.wav", np.stack([pair.source, pair.source]))
    with spent() as cost:
        report = convert(stereo, voices[0], folder / "sung.wav", Conversion(), threads=threads)
    write_pcm(folder / "ours.wav", read_pcm(folder / "sung.wav")[0].mean(axis=0))
    write_pcm(folder / "source.wav", pair.source)
    low = soxr.resample(pair.source, RATE, prototype.RATE)
    with spent() as their_cost:
        seen = prototype.analyse(low)
        write_pcm(folder / "WMd.wav", prototype.convert(low, voices[1], "WMd", seen), prototype.RATE)
    write_pcm(folder / "M.wav", prototype.convert(low, voices[1], "M", seen), prototype.RATE)
    for who, clips in (("target", pair.target.held), ("original", pair.original)):
        for k, clip in enumerate(clips[:6]):
            write_pcm(folder / f"{who}{k}.wav", clip)
    seconds = len(pair.source) / RATE
    return {
        "pair": pair.name, "seconds": round(seconds, 1),
        "trained_on_s": round(sum(map(len, pair.target.learn)) / RATE, 1), "octave": report.get("octave"),
        "cpu_per_second": round(cost.seconds / seconds, 3),
        "prototype_cpu_per_second": round(their_cost.seconds / seconds, 3),
    }  # fmt: skip


def _questions(pair: Pair, folder: Path) -> list[dict[str, Any]]:
    targets, originals = (sorted(map(str, folder.glob(f"{who}*.wav"))) for who in ("target", "original"))
    jobs: list[dict[str, Any]] = []
    for who in ("source", "ours", *RECIPES):
        clip = str(folder / f"{who}.wav")
        jobs.append({"judge": "similarity", "clips": [clip], "to": targets})
        jobs.append({"judge": "similarity", "clips": [clip], "to": originals})
        jobs.append({"judge": "words", "audio": clip, "text": pair.text, "reference": str(folder / "source.wav")})
    return jobs


def _read(row: Row, answers: list[dict[str, Any]]) -> None:
    for k, who in enumerate(("before", "ours", *RECIPES)):
        to_target, to_source, understood = answers[3 * k : 3 * k + 3]
        row[f"to_target_{who}"] = to_target["similarity"]
        row[f"to_original_{who}"] = to_source["similarity"]
        row[f"words_{who}"] = understood.get("word_accuracy")
        row[f"phones_{who}"] = understood["phone_accuracy_to_reference"]
        row[f"frames_{who}"] = understood["frame_agreement"]


def _sum_up(rows: list[Row]) -> dict[str, Any]:
    means: dict[str, dict[str, float]] = {}
    for figure in ("to_target", "to_original", "words", "phones", "frames"):
        found = [row for row in rows if row[f"{figure}_before"] is not None]
        if found:
            means[figure] = {
                who: round(mean(r[f"{figure}_{who}"] for r in found), 3) for who in ("before", "ours", *RECIPES)
            }
    figures: dict[str, float] = {
        "similarity_ratio": ratio(means["to_target"]["ours"], means["to_target"]["WMd"]),
        "clarity_ratio": ratio(means["frames"]["ours"], means["frames"]["WMd"]),
    }
    if "words" in means:
        figures["words_ratio"] = ratio(means["words"]["ours"], means["words"]["WMd"])
    closer = sum(row["to_target_ours"] > row["to_original_ours"] for row in rows)
    return {"means": means, "figures": figures, "pairs_closer_to_target_than_to_original": f"{closer} of {len(rows)}"}
