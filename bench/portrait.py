"""What a portrait costs: Sonic's network beside stock diffusers in the published layout; seconds for a whole song.

    python bench/portrait.py                       about five minutes on a free core; on a CUDA device about fifteen
    python bench/portrait.py --quick --json        under a minute; the last line is one JSON object
    python bench/portrait.py --device cuda         the ladder at full size (random weights): needs 24 GB
    python bench/portrait.py --device cpu --size tiny       the same ladder, tiny, to see that it runs

The peer (`peers/portrait_peer.py`) is diffusers' Stable Video Diffusion with audio attention as Sonic published it.
Both sides get the same weights and the same window of 25 frames, one after the other and in turn, each in a process of
its own. On a CPU, at one thread, CPU-seconds count, of several runs the cheapest: cores are shared. On a CUDA device
wall seconds count, and a clip of 30 seconds is made for real.

What holds anywhere is counted, not timed: FLOPs of one window's step at full size on the meta device, and how many such
steps a song of 210 seconds takes with each speed-up, by the program's own plans.
Results go to bench/results/portrait.json and .md; those of --quick, and of parts, to bench/.work/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import table, verdict
from machine import LOOKS, RESULTS, about, asked, child, tell

HERE = Path(__file__).parent
OURS, PEER = HERE / "measure_portrait.py", HERE / "peers" / "portrait_peer.py"
STEP_AIM, CALLS_AIM, WORK_AIM, FAST_AIM = 1.05, 1.2, 1.05, 3.3  # on a CPU, and counted: times less than the peer
ALIKE = 1e-3  # of a velocity's spread: the largest difference from the peer's
EXACT_AIM, SONG_S = 1.4, 210.0  # on one H200: times faster than the peer; a song in the time that it takes to hear it
SUSTAINED = 400e12  # FLOP/s that a model without a GPU assumes: half of an H200's dense 16 bit products
FP8_TIME = 0.8  # of a step's time, in that model: half of the products at up to twice the speed
DECODE_TFLOP, BETWEEN_TFLOP = 3.04, 0.067  # a frame, and a picture between two, at 512 x 512 px
SONG_FRAMES, CLIP_FRAMES = 2625, 375  # 210 s, 30 s
PAUSES = ((0, 180), (600, 760), (1200, 1400), (1900, 2060), (2400, 2625))  # of that song: 65 % is sung
STAGES: list[tuple[str, tuple[str, ...]]] = [
    ("exact", ()), ("+ schedule", ("schedule",)), ("+ guidance", ("schedule", "guidance")),
    ("+ features", ("schedule", "guidance", "features")),
    ("+ silence", ("schedule", "guidance", "features", "silence")),
    ("+ fp8", ("schedule", "guidance", "features", "silence", "fp8")),
]  # fmt: skip
RUNGS: dict[str, dict[str, Any]] = {
    "eager": {}, "two windows": {"windows": 2}, "compiled": {"compile": True}, "fp8": {"fp8": True},
    "fp8, compiled": {"fp8": True, "compile": True},
}  # fmt: skip
CPU_RUNGS = {name: RUNGS[name] for name in ("eager", "two windows", "fp8")}


# --- on a CPU --------------------------------------------------------------------------------------------------------


def loops(folder: Path, quick: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Steps of a window through a tiny and through a small network, and how alike the answers are."""
    rows, figures = [], {}
    for size, side, times, steps in [("tiny", 64, 1, 4)] if quick else [("tiny", 128, 3, 3), ("small", 128, 2, 2)]:
        weights = child(PEER, {"kind": "prepare", "size": size, "folder": str(folder)}, folder)["weights"]
        job = {"kind": "window", "size": size, "side": side, "device": "cpu", "weights": weights, "steps": steps}
        kept = str(folder / "velocity.safetensors")
        runs: list[list[dict[str, Any]]] = [[], [], []]
        for _ in range(times):
            runs[0].append(child(PEER, {**job, "keep": kept}, folder))
            runs[1].append(child(OURS, {**job, "kept": kept}, folder))
            runs[2].append(child(OURS, {**job, "pairs": True}, folder))
        names = ("diffusers, published layout", "vividcover, exact", "vividcover, pairs of steps")
        costs = []
        for who, side_runs in zip(names, runs):
            best = min(side_runs, key=lambda run: run["cpu_s"])
            costs.append(1000 * best["cpu_s"] / best["steps"])
            rows.append({"who": who, "network": size, "runs": times, "ms_per_step": round(costs[-1], 1)})
        difference = max(run["difference"] for run in runs[1])
        figures |= {
            f"{size}_step_ratio": round(costs[0] / costs[1], 3), f"{size}_step_ratio_aim": STEP_AIM,
            f"{size}_pairs_ratio": round(costs[0] / costs[2], 3), f"{size}_pairs_ratio_aim": 1.3,
            f"{size}_largest_difference": difference,
            f"{size}_alike_ratio": round(ALIKE / max(difference, 1e-9), 1), f"{size}_alike_ratio_aim": 1.0,
        }  # fmt: skip
    return figures, rows


# --- counted ---------------------------------------------------------------------------------------------------------


def counts(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, float]]:
    """FLOPs, calls and memory of a window's step at full size, of both; and TFLOP by the kind of step."""
    theirs = child(PEER, {"kind": "counted", "side": 512}, folder)
    ours = child(OURS, {"kind": "counted", "side": 512}, folder)
    said = {
        "exact": "vividcover, exact", "guidance": 'without the branch "nothing"', "features": "from kept features",
        "both": "both",
    }  # fmt: skip
    rows = [{"who": "diffusers, published layout", **theirs}, *({"who": said[name], **ours[name]} for name in said)]
    figures = {
        "counted_flop_ratio": round(theirs["tflop"] / ours["exact"]["tflop"], 3), "counted_flop_ratio_aim": WORK_AIM,
        "counted_calls_ratio": round(theirs["calls"] / ours["exact"]["calls"], 3), "counted_calls_ratio_aim": CALLS_AIM,
    }  # fmt: skip
    return figures, rows, {"peer": theirs["tflop"], **{name: ours[name]["tflop"] for name in said}}


def steps_of(frames: int, speedups: tuple[str, ...], pauses: tuple[tuple[int, int], ...] = ()) -> Counter[str]:
    """How many window steps of each kind the program's own plan takes for a song, and for its loop of rest."""
    from measure_portrait import Voice
    from vividcover.portrait.sonic.config import SonicOptions
    from vividcover.portrait.sonic.idle import Idle
    from vividcover.portrait.sonic.speed import Fast, plan_of, resting
    from vividcover.portrait.sonic.windows import windows

    options, found = SonicOptions(speedups=speedups), Counter[str]()
    plan = plan_of(options)
    songs = [(plan, frames)]
    if rest := resting(Voice(frames, "tiny", pauses), options, plan):
        assert isinstance(plan, Fast)
        songs = [(plan, rest.length), (replace(plan, idle=Idle(rest, Path())), frames)]
    for which, length in songs:
        for turn, steps in enumerate(which.turns):
            for window in windows(length, turn):
                for step in steps if which.wanted(turn, window) else ():
                    move = which.move(step, window)
                    again, fewer = move.deep == "use", len(move.branches) < 3
                    found[("both" if fewer else "features") if again else "guidance" if fewer else "exact"] += 1
    return found


def song(costs: dict[str, float]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """PFLOP of a song of 210 s at 512 x 512 px, stage by stage, and the seconds that they would take."""
    tail = SONG_FRAMES * (DECODE_TFLOP + BETWEEN_TFLOP) / 1000
    published = 105 * 25 * costs["peer"] / 1000
    rows = [modelled("diffusers, published layout", published, tail, {"exact": 105 * 25})]
    for name, speedups in STAGES:
        steps = steps_of(SONG_FRAMES, speedups, PAUSES)
        work = sum(count * costs[kind] for kind, count in steps.items()) / 1000
        rows.append(modelled(name, work, tail, steps, FP8_TIME if "fp8" in speedups else 1.0))
    by = {row["what"]: row for row in rows}
    fast = by["+ features"]  # without what hangs on the song and on the card
    return {
        "song_flop_ratio": round((published + tail) / (fast["unet_pflop"] + tail), 2), "song_flop_ratio_aim": FAST_AIM,
        "modelled_realtime_ratio": round(SONG_S / fast["modelled_s"], 3), "modelled_realtime_ratio_aim": 1.0,
        "modelled_song_s": by["+ fp8"]["modelled_s"],
    }, rows  # fmt: skip


def modelled(what: str, work: float, tail: float, steps: Any, share: float = 1.0) -> dict[str, Any]:
    seconds = (share * work + tail) * 1e15 / SUSTAINED
    return {
        "what": what, "whole_steps": sum(steps[k] for k in ("exact", "guidance") if k in steps),
        "from_kept_features": sum(steps[k] for k in ("features", "both") if k in steps), "unet_pflop": round(work, 1),
        "tail_pflop": round(tail, 1), "modelled_s": round(seconds, 1), "times_the_song": round(seconds / SONG_S, 2),
    }  # fmt: skip


# --- the ladder ------------------------------------------------------------------------------------------------------


def ladder(folder: Path, device: str, size: str, quick: bool) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Milliseconds of a window's step, of a decoded frame and of one between; a clip; and what a song would take."""
    cuda, full = device.startswith("cuda"), size == "full"
    unit = "wall_s" if cuda else "cpu_s"
    job = {"size": size, "device": device, "side": 512 if full else 64, "steps": 5 if cuda and not quick else 1}
    job["threads"] = 8 if cuda else 1
    theirs = child(PEER, {"kind": "window", **job}, folder)
    rows = [{"who": "diffusers, published layout", **_step(theirs, unit)}]
    for name, options in (RUNGS if cuda else CPU_RUNGS).items():
        found = child(OURS, {"kind": "window", **job, **options}, folder)
        two = child(OURS, {"kind": "window", **job, **options, "pairs": True}, folder)
        rows.append({"who": name, **_step(found, unit), "ms_per_step_in_pairs": _step(two, unit)["ms_per_step"]})
    quickest = min(rows[1:], key=lambda row: row["ms_per_step"])["who"]
    tails = []
    for who, script, more in (
        ("diffusers", PEER, {}), ("vividcover", OURS, {}), *([("compiled", OURS, {"compile": True})] if cuda else []),
    ):  # fmt: skip
        found = child(script, {"kind": "decode", **job, **more, "chunks": 1 if quick else 4}, folder)
        between = found.get("between_wall_s" if cuda else "between_cpu_s")
        tails.append({
            "who": who, "ms_per_frame": round(1000 * found[unit] / found["frames"], 2), "memory_gb": found["memory_gb"],
            "ms_between": between and round(1000 * between, 2),
        })  # fmt: skip
    options = (RUNGS if cuda else CPU_RUNGS)[quickest] if quickest != "two windows" else {}
    frames = CLIP_FRAMES if full and not quick else 26
    clips = []
    for speedups in ((), STAGES[-1][1]) if full and not quick else (STAGES[-1][1],):
        more = {**options, "fp8": bool(options.get("fp8")) and bool(speedups), "speedups": speedups, "frames": frames}
        made = child(OURS, {"kind": "clip", **job, **more}, folder)
        seconds = made["sampling_s"] + made["showing_s"] if cuda else made["cpu_s"]
        clips.append({
            "mode": "fast" if speedups else "exact", "network": quickest, "clip_s": made["seconds"],
            "sampling_s": round(made["sampling_s"], 2), "showing_s": round(made["showing_s"], 2),
            "times_the_clip": round(seconds / made["seconds"], 2), "memory_gb": made["memory_gb"],
        })  # fmt: skip
    figures, songs = whole_song(rows, tails, quickest, cuda and full)
    return figures, {"ladder": rows, "tail": tails, "clips": clips, "songs": songs}


def _step(found: dict[str, Any], unit: str) -> dict[str, Any]:
    return {
        "ms_per_step": round(1000 * found[unit] / found["steps"], 2), "memory_gb": found["memory_gb"],
        "first_s": round(found["first_s"], 1),
    }  # fmt: skip


def whole_song(
    rows: list[dict[str, Any]], tails: list[dict[str, Any]], quickest: str, counts_here: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Seconds for 30 and 210 s of song from what was measured, of the peer, exact, and fast with nothing to rest in."""
    by = {row["who"]: row for row in rows}
    plain = min((row for row in rows[1:] if "fp8" not in row["who"]), key=lambda row: row["ms_per_step"])
    made = []
    for frames, seconds in ((CLIP_FRAMES, 30.0), (SONG_FRAMES, SONG_S)):
        exact = sum(steps_of(frames, ()).values())
        fast = steps_of(frames, ("schedule", "guidance", "features"))
        singles = (fast["exact"] - fast["both"]) * by[quickest]["ms_per_step"]  # the others are a turn of two
        pairs = 2 * fast["both"] * by[quickest]["ms_per_step_in_pairs"]
        ours = min(tails[1:], key=lambda tail: tail["ms_per_frame"])
        tail, theirs = (frames * (t["ms_per_frame"] + (ours["ms_between"] or 0)) for t in (ours, tails[0]))
        for who, steps, end in (
            (rows[0]["who"], exact * rows[0]["ms_per_step"], theirs), ("exact", exact * plain["ms_per_step"], tail),
            ("fast, all of it sung", singles + pairs, tail),
        ):  # fmt: skip
            took = (steps + end) / 1000
            made.append({"song_s": seconds, "who": who, "seconds": round(took, 1), "times": round(took / seconds, 3)})
    theirs_s, exact_s, fast_s = (row["seconds"] for row in made[-3:])
    found = {"song_exact_s": exact_s, "song_fast_s": fast_s, "exact_speedup": round(theirs_s / exact_s, 3)}
    if not counts_here:
        return found, made
    return found | {
        "exact_ratio": round(theirs_s / exact_s, 3), "exact_ratio_aim": EXACT_AIM,
        "realtime_ratio": round(SONG_S / fast_s, 3), "realtime_ratio_aim": 1.0,
    }, made  # fmt: skip


# --- telling ---------------------------------------------------------------------------------------------------------


TITLES = {
    "loops": "One thread of a CPU; milliseconds of CPU for a step of a window of 25 frames, of some runs the cheapest:",
    "counted": "Counted, not timed: one step of one window at full size and 512 x 512 px, three branches; GB alive "
    "beside the weights, in 16 bits:",
    "song": "A song of 210 s, of which 65 % are sung, at 512 x 512 px; steps of windows by the program's own plans; "
    f"seconds if {SUSTAINED / 1e12:.0f} TFLOP/s are sustained, which nobody has measured here:",
    "ladder": "The ladder; milliseconds (on a CPU: of its time) for a step of a window:",
    "tail": "From latents to pictures; milliseconds a frame, and for a picture between two:",
    "clips": "A whole clip with random weights:",
    "songs": "What a song takes by these figures:",
}  # fmt: skip


def page(head: dict[str, Any], figures: dict[str, Any], parts: dict[str, list[dict[str, Any]]]) -> str:
    ratios = [
        {"ratio (bigger is better)": k, "value": v, "aim": figures[f"{k}_aim"]}
        for k, v in figures.items() if k.endswith("_ratio")
    ]  # fmt: skip
    others = [{"figure": k, "value": v} for k, v in figures.items() if "_ratio" not in k]
    missed = verdict(figures)
    where = head["device"].get("gpu", head["device"]["cpu"])
    said = [
        "# A portrait: Sonic's network beside diffusers",
        f"{head['date']}, {where}, {head['device']['cores']} cores, load {head['load_at_start'][0]}: "
        f"`{head['command']}`",
        f"Missed: {', '.join(missed)}." if missed else "Every aim is met." if ratios else "A look, without aims.",
        table(ratios) if ratios else "",
    ]
    for name, rows in parts.items():
        said += [TITLES[name], table(rows, list(dict.fromkeys(key for row in rows for key in row)))]
    said += [
        table(others) if others else "",
        "Weights are random: cost does not hang on them, and nothing is said here about how a portrait looks. None of "
        "the speed-ups has been judged with the published weights. `alike_ratio` is "
        f"{ALIKE} of the spread of the peer's answer over our largest difference from it.",
    ]
    if "ladder" not in parts:
        said.append(
            "The figures of a GPU are not here: this machine has none. The aims on one H200, which `--device cuda` "
            f"holds itself against: a song of {SONG_S:.0f} s in at most {SONG_S:.0f} s in `fast`; `exact` at least "
            f"{EXACT_AIM} times as fast as the peer."
        )
    return "\n\n".join(part for part in said if part) + "\n"


def options() -> argparse.Namespace:
    parser = asked(__doc__, "a tiny network, few steps")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument(
        "--size", choices=("tiny", "small", "full"), help="of the ladder's network; default: full, on CUDA"
    )
    return parser.parse_args()


def main() -> int:
    given = options()
    from vividcover.tensors import pick_device

    device = str(pick_device(given.device))
    cuda = device.startswith("cuda")
    size = given.size or ("full" if cuda else "")
    head = about()
    if cuda:
        import torch

        head["device"] |= {"gpu": torch.cuda.get_device_name()}
    for package in ("torch", "diffusers", "transformers"):
        from importlib.metadata import version

        head["versions"] |= {package: version(package)}
    figures: dict[str, Any] = {}
    parts: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="portrait-") as temporary:
        folder = Path(temporary)
        if not size:
            figures, parts["loops"] = loops(folder, given.quick)
        if not size or cuda:
            found, parts["counted"], costs = counts(folder)
            figures |= found
            found, parts["song"] = song(costs)
            figures |= found
        if size:
            found, more = ladder(folder, device, size, given.quick)
            figures, parts = figures | found, parts | more
    partly = given.quick or (size and size != "full")
    return tell("portrait", given, head, figures, page(head, figures, parts), LOOKS if partly else RESULTS, **parts)


if __name__ == "__main__":
    sys.exit(main())
