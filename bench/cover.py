"""What a cover costs: the whole chain on songs of 210 s and 420 s at 768x768, from nothing, stage by stage.

    python bench/cover.py                       a 210 s and a 420 s song: about 10 minutes on two free cores
    python bench/cover.py --seconds 210         one length (may be repeated)
    python bench/cover.py --quick --json        a 30 s song; the last line is one JSON object

Drives the command line, as a user would: every command is a process of its own with a fresh VIVIDCOVER_HOME, so nothing
comes from a cache (the nets lie in the user's cache, fetched by set-up). The songs are arranged from the sample song's
stems: other orders of its sections, each time in another key, tempo and balance, so that no stretch repeats. Memory is
the PSS (and RSS) of the process and all its children, summed every 0.1 s; CPU-seconds count all of them too. Results go
to bench/results/cover.json and .md; those of --quick and --seconds to bench/.work/.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

from cases import SAMPLE, Array, load
from figures import table, verdict
from machine import LOOKS, RESULTS, Watched, about, asked, tell, watch

RATE = 44_100  # Hz
BAR = 4 * 60 / 92  # s, of the sample song
SECTIONS = {"intro": (0, 1), "verse": (1, 5), "gap": (5, 6), "chorus": (6, 10), "tag": (10, 11.3)}  # bars
ORDERS = (
    ("intro", "verse", "gap", "chorus"), ("verse", "chorus", "gap", "chorus", "tag"), ("gap", "chorus", "verse"),
    ("intro", "chorus", "verse", "tag"),
)  # fmt: skip
FADE = 0.03  # s between sections
SIDE, FPS = 768, 25
LENGTHS, QUICK = (210.0, 420.0), (30.0,)
WALL_AIM, MEMORY_AIM, GROWTH_AIM = 1.0, 2e9, 1 / 1.05  # song length; bytes; peak of the shorter song / of the longer
PROTOTYPE = {"seconds": 210, "wall_s": 258.0, "wall_per_song": 1.23, "peak_gb": 12.7}  # its own report, 2 shared cores
CONSENT = "Vivi does not exist; her photographs and recordings are synthetic."
PROMPT = "VIVI on stage performing, blue and magenta light, smoke, crowd"


def arrange(seconds: float, seed: int) -> Iterator[Array]:
    """Stretches [2, n] of a song of that length; everything follows from the seed."""
    stems = load(SAMPLE / "song" / "vocals.flac"), load(SAMPLE / "song" / "instrumental.flac")
    rng, left, number = np.random.default_rng(seed), round(seconds * RATE), 0
    while left > 0:
        speed = 2 ** (rng.uniform(-3, 3) / 12)  # key and tempo together
        gains = 10 ** (rng.uniform(-2, 2, 2) / 20) * 0.9
        tilt = np.array([[1 + rng.uniform(-0.1, 0.1)], [1.0]])
        for name in ORDERS[number % len(ORDERS)]:
            start, end = (int(bar * BAR * RATE) for bar in SECTIONS[name])
            piece = sum(gain * stem[:, start:end] for gain, stem in zip(gains, stems)) * tilt
            piece = soxr.resample(np.ascontiguousarray(piece.T), RATE * speed, RATE).T[:, :left]
            ramp = np.minimum(1, np.arange(piece.shape[1]) / (FADE * RATE))
            yield np.clip(piece * ramp * ramp[::-1], -1, 1)
            left -= piece.shape[1]
            if left <= 0:
                return
        number += 1


def write_song(path: Path, seconds: float, seed: int) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        for piece in arrange(seconds, seed):
            out.writeframes((piece.T * 32767).astype("<i2").tobytes())
    return path


# --- running -------------------------------------------------------------------------------------------------------


def command(home: Path, *words: str) -> Watched:
    """One command of the program in a process of its own. Ends the bench with its message when it fails."""
    program = Path(sys.executable).with_name("vividcover")
    environment = {**os.environ, "VIVIDCOVER_HOME": str(home)}
    done = watch([str(program), *words, "--json", "--quiet"], environment)
    if done.code:
        raise SystemExit(f"vividcover {' '.join(words)} ended with {done.code}:\n{done.err[-2000:]}{done.out[-2000:]}")
    return done


def train(home: Path) -> dict[str, Any]:
    """Voice and image of the sample person."""
    clips, photos = str(SAMPLE / "voice"), str(SAMPLE / "photos")
    voice = command(home, "voice", "train", clips, "--name", "vivi", "--consent", CONSENT)
    subject = ("--trigger-word", "VIVI", "--type", "subject")
    image = command(home, "image", "train", photos, "--name", "vivi", *subject, "--consent", CONSENT)
    return {"voice": _cost(voice), "image": _cost(image)}


def cover(home: Path, song: Path, seconds: float, out: Path) -> dict[str, Any]:
    """One cover, and what it cost."""
    done = command(
        home, "cover", str(song), "--voice", "vivi", "--image", "vivi", "--prompt", PROMPT, "--width", str(SIDE),
        "--height", str(SIDE), "--seed", "0", "-o", str(out),
    )  # fmt: skip
    record = json.loads(done.out.strip().splitlines()[-1]) if done.out.strip().startswith("{") else json.loads(done.out)
    stages = [
        {"stage": s["name"], "wall_s": round(s["seconds"], 2), "wall_per_song": round(s["seconds"] / seconds, 4)}
        | ({"from_cache": True} if s["from_cache"] else {})
        for s in record["stages"]
    ]
    return {
        "seconds": seconds, **_cost(done), "wall_per_song": round(done.wall / seconds, 3),
        "cpu_per_song": round(done.cpu / seconds, 3), "stages": stages, "output": _inspect(out, seconds),
        "memory_curve_mb": [[at, round(pss / 1e6)] for at, pss in done.curve],
    }  # fmt: skip


def _cost(done: Watched) -> dict[str, Any]:
    return {
        "wall_s": round(done.wall, 1), "cpu_s": round(done.cpu, 1), "peak_pss_mb": round(done.peak_pss / 1e6),
        "peak_rss_mb": round(done.peak_rss / 1e6), "processes": done.processes, "looks": done.looks,
    }  # fmt: skip


def _inspect(path: Path, seconds: float) -> dict[str, Any]:
    """That the video is what was asked for: size, frames, length of both streams."""
    with av.open(str(path)) as made:
        video, audio = made.streams.video[0], made.streams.audio[0]
        frames, wanted = sum(packet.size > 0 for packet in made.demux(video)), round(seconds * FPS)
        found = {
            "width": video.width, "height": video.height, "frames": frames, "frames_wanted": wanted,
            "audio_s": round(float((audio.duration or 0) * audio.time_base), 2),
            "mb": round(path.stat().st_size / 1e6, 1),
        }  # fmt: skip
    good = (video.width, video.height) == (SIDE, SIDE) and abs(frames - wanted) <= 1
    return found | {"as_asked": good and abs(found["audio_s"] - seconds) < 0.1}


def sum_up(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The ratios, bigger is better, each with its aim."""
    first, peak = runs[0], max(run["peak_pss_mb"] for run in runs)
    figures = {
        "speed_ratio": round(1 / first["wall_per_song"], 3), "speed_ratio_aim": 1 / WALL_AIM,
        "speed_to_prototype_ratio": round(PROTOTYPE["wall_per_song"] / first["wall_per_song"], 3),
        "speed_to_prototype_ratio_aim": 1.0,
        "memory_ratio": round(MEMORY_AIM / 1e6 / peak, 3), "memory_ratio_aim": 1.0,
    }  # fmt: skip
    if len(runs) > 1:
        growth = runs[0]["peak_pss_mb"] / runs[-1]["peak_pss_mb"]
        figures |= {"memory_growth_ratio": round(growth, 3), "memory_growth_ratio_aim": round(GROWTH_AIM, 3)}
    return figures


def page(head: dict[str, Any], figures: dict[str, float], training: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    device, missed = head["device"], verdict(figures)
    names = [k for k in figures if k.endswith("_ratio")]
    lines = [
        "# Cover: time and memory", "",
        f"{head['date']}, {device['cpu']}, {device['cores']} cores, load {head['load_at_start']} at the start, "
        f"commit {head['commit']}: `{head['command']}`", "", f"Missed: {', '.join(missed) or 'nothing'}.", "",
        table([{"ratio (bigger is better)": k, "value": figures[k], "aim": figures[f"{k}_aim"]} for k in names]),
        table([{"training": k, **v} for k, v in training.items()]),
        table([{k: v for k, v in run.items() if k not in ("stages", "output", "memory_curve_mb")} for run in runs]),
        "The longer song's memory stays within 5 % when memory_growth_ratio is at least 0.952. PSS counts shared pages "
        "once; RSS, beside it, counts them in every process.", "",
    ]  # fmt: skip
    if head["load_at_start"][0] > device["cores"]:
        lines += [
            f"The machine was shared: a load of {head['load_at_start'][0]} at the start. Seconds by the clock "
            "(wall_s and the speed ratios) count others' work too; memory and cpu_s do not.", "",
        ]  # fmt: skip
    for run in runs:
        lines += [f"## {run['seconds']:.0f} s at {SIDE}x{SIDE}: stages", "", table(run["stages"])]
        lines += [f"Output: `{json.dumps(run['output'])}`", ""]
    lines += [
        "Stages run side by side where they do not need each other, so their seconds add up to more than the whole. "
        f"The prototype's own report, not run again here: {json.dumps(PROTOTYPE)}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = asked(__doc__, "a 30 s song")
    parser.add_argument("--seconds", type=float, action="append", help="length of the song; may be repeated")
    given = parser.parse_args()
    head, runs = about(), []
    with tempfile.TemporaryDirectory(prefix="cover-") as temporary:
        work = Path(temporary)
        training = train(work / "trained")
        for number, seconds in enumerate(given.seconds or (QUICK if given.quick else LENGTHS)):
            home = work / f"home{number}"  # the shelf, without the cache
            home.mkdir()
            for shelf in ("voices", "images"):
                shutil.copytree(work / "trained" / shelf, home / shelf)
            song = write_song(work / f"song{number}.wav", seconds, seed=number + 1)
            runs.append(cover(home, song, seconds, work / f"cover{number}.mp4"))
            print(f"{seconds:.0f} s: {runs[-1]['wall_s']} s, {runs[-1]['peak_pss_mb']} MB", file=sys.stderr)
            shutil.rmtree(home)
    figures = sum_up(runs)
    out = LOOKS if given.quick or given.seconds else RESULTS
    text = page(head, figures, training, runs)
    return tell("cover", given, head, figures, text, out, training=training, runs=runs, prototype=PROTOTYPE)


if __name__ == "__main__":
    sys.exit(main())
