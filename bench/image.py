"""What training and painting with FLUX costs, beside stock diffusers and peft in one run.

    python bench/image.py                       about ten minutes on a free core; on a CUDA device about twenty
    python bench/image.py --quick --json        under a minute; the last line is one JSON object
    python bench/image.py --device cuda         the ladder at full size (random weights): needs 80 GB
    python bench/image.py --device cpu --size small     the same ladder, small, to see that it runs
    python bench/image.py --rungs eager,fp8 --sides 1024

The peer (`peers/flux_peer.py`) is diffusers' transformer, peft's LoRA and the loop of diffusers' training script.
Both sides get the same weights, pictures, embeddings and recipe (rank 16 on every layer of the blocks, AdamW, a moving
average), one after the other and in turn, each in a process of its own. On a CPU, at one thread, CPU-seconds count, of
several runs the cheapest: cores are shared. On a CUDA device wall seconds count, with compilation apart.

What holds anywhere is counted, not timed: FLOPs and calls of torch of one pass at full size, on the meta device.
Results go to bench/results/image.json and .md; those of --quick, and of parts, to bench/.work/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import table, verdict
from machine import LOOKS, RESULTS, about, asked, child, tell

HERE = Path(__file__).parent
OURS, PEER = HERE / "measure_image.py", HERE / "peers" / "flux_peer.py"
STEP_AIM, WIDE_AIM, PAINT_AIM = 1.5, 1.05, 1.2  # times cheaper than the peer, on a CPU: tiny, small, sampling
CALLS_AIM, WORK_AIM = 1.5, 0.99  # times fewer calls of torch; FLOPs
COSINE = 0.9999  # of the gradients with the peer's, at least
EAGER_AIM, RECIPE_S, RECORD_S, PAINT_S = 3.0, 150.0, 120.0, 2.6  # on one H200
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bf16 FLOP/s, from the data sheets
LONG, SHORT = 512, 128  # text tokens
RUNGS: dict[str, dict[str, Any]] = {  # what of the ladder each step adds
    "eager": {},
    "compiled": {"compile": True},
    "compiled, short text": {"compile": True, "text": SHORT},
    "fp8": {"compile": True, "quantise": "fp8"},
    "fp8, short text": {"compile": True, "quantise": "fp8", "text": SHORT},
}
CPU_RUNGS = {"eager": {}, "short text": {"text": SHORT // 4}, "fp8": {"quantise": "fp8"}, "int8": {"quantise": "int8"}}


class Bench:
    """A folder with what both sides read, for one size of the network."""

    def __init__(self, folder: Path, device: str, size: str, sides: list[int], text: int, texts: list[int]) -> None:
        self.folder, self.device, self.size = folder, device, size
        self.cuda = device.startswith("cuda")
        self.given = {
            "folder": str(folder / size), "size": size, "sides": sides, "text": text, "device": device,
            "threads": 8 if self.cuda else 1,
        }  # fmt: skip
        self.parameters = child(PEER, {"kind": "prepare", **self.given, "texts": texts}, folder)["parameters"]

    def ours(self, kind: str, **job: Any) -> dict[str, Any]:
        return child(OURS, {"kind": kind, **self.given, **job}, self.folder)

    def theirs(self, kind: str, **job: Any) -> dict[str, Any]:
        return child(PEER, {"kind": kind, **self.given, **job}, self.folder)

    def duel(self, kind: str, times: int, **job: Any) -> list[dict[str, Any]]:
        """Both sides in turn, `times` times; of each the cheapest run."""
        runs: list[list[dict[str, Any]]] = [[], []]
        for _ in range(times):
            runs[0].append(self.theirs(kind, **job))
            runs[1].append(self.ours(kind, **job))
        unit = "wall_s" if self.cuda else "cpu_s"
        found = []
        for who, side in zip(("diffusers + peft", "vividcover"), runs):
            best = min(side, key=lambda run: run[unit])
            found.append({
                "who": who, "network": self.size, "what": kind, "steps": best["steps"], "runs": len(side),
                "ms_per_step": round(1000 * best[unit] / best["steps"], 3),
            })  # fmt: skip
        return found


# --- on a CPU --------------------------------------------------------------------------------------------------------


def loops(folder: Path, quick: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The training loop and the sampling loop of a tiny and of a small network, and how alike the gradients are."""
    tiny = Bench(folder, "cpu", "tiny", [128], 64, [])
    times, steps = (1, 40) if quick else (5, 120)
    rows = tiny.duel("train", times, warm=10, steps=steps)
    paint = tiny.duel("generate", 1 if quick else 3, steps=28)
    alike = beside(tiny)
    figures = {
        "training_step_ratio": ratio(rows), "training_step_ratio_aim": STEP_AIM,
        "gradient_cosine_below_1": max(1 - alike["cosine"], 0.0),
        "worst_layer_cosine_below_1": max(1 - alike["least_cosine"], 0.0),
        "loss_difference": alike["loss_difference"],
        "gradient_ratio": round((1 - COSINE) / max(1 - alike["cosine"], 1e-9), 1), "gradient_ratio_aim": 1.0,
        "sampling_ratio": ratio(paint), "sampling_ratio_aim": PAINT_AIM,
    }  # fmt: skip
    rows += paint
    if not quick:
        small = Bench(folder, "cpu", "small", [256], 128, [])
        wide = small.duel("train", 3, warm=2, steps=6)
        painted = small.duel("generate", 2, steps=8)
        figures |= {"small_training_step_ratio": ratio(wide), "small_training_step_ratio_aim": WIDE_AIM,
                    "small_sampling_ratio": ratio(painted), "small_sampling_ratio_aim": 1.0}  # fmt: skip
        rows += wide + painted
    return figures, rows


def ratio(rows: list[dict[str, Any]]) -> float:
    return round(float(rows[0]["ms_per_step"] / rows[1]["ms_per_step"]), 3)


def beside(bench: Bench, **job: Any) -> dict[str, Any]:
    """Loss and gradients of both, at the same weights, noise and level of noise."""
    theirs = bench.theirs("gradients")
    ours = bench.ours("gradients", **job)
    return {**ours, "loss_difference": round(abs(ours["loss"] - theirs["loss"]), 9)}


def counts(folder: Path, quick: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """FLOPs and calls of a step with a LoRA at full size, of both; no weights, no device."""
    rows = []
    for side, text in [(1024, LONG)] if quick else [(512, LONG), (1024, LONG), (1024, SHORT)]:
        for who, script in (("diffusers + peft", PEER), ("vividcover", OURS)):
            job = {"kind": "counted", "side": side, "text": text, "lora": True}
            rows.append({"who": who, "side": side, "text": text, **child(script, job, folder)})
    at_1024 = [row for row in rows if row["side"] == 1024 and row["text"] == LONG]
    theirs, ours = at_1024
    return {
        "counted_flop_ratio": round(theirs["tflop"] / ours["tflop"], 3), "counted_flop_ratio_aim": WORK_AIM,
        "counted_calls_ratio": round(theirs["calls"] / ours["calls"], 3), "counted_calls_ratio_aim": CALLS_AIM,
    }, rows  # fmt: skip


def files(folder: Path) -> list[dict[str, Any]]:
    found = child(OURS, {"kind": "files", "folder": str(folder)}, folder)
    return [{"format": name, **row} for name, row in found.items()]


# --- the ladder ------------------------------------------------------------------------------------------------------


def ladder(
    folder: Path, device: str, size: str, quick: bool, rungs: list[str], sides: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Steps a second, rung by rung: each size alone, and the default mix of all; then a picture of 28 steps."""
    cuda = device.startswith("cuda")
    text = LONG if size == "full" else 64
    sides = sides or ([512, 768, 1024] if size == "full" else [64, 128])
    table_of = RUNGS if cuda else CPU_RUNGS
    chosen = [name for name in table_of if not rungs or name in rungs]
    warm, steps = (2, 2) if quick or not cuda else (6, 20)
    alone = [] if quick else [[side] for side in sides]
    shapes = alone + ([sides] if len(sides) > 1 or quick else [])
    work = {} if size != "full" else {
        (side, t): child(OURS, {"kind": "counted", "side": side, "text": t, "lora": True}, folder)["tflop"]
        for side in sides for t in (LONG, SHORT)
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        bench = Bench(folder, device, size, shape, text, [SHORT, SHORT // 4])
        job = {"warm": warm * len(shape), "steps": steps * len(shape)}
        rows.append(rung(bench, "diffusers + peft, eager", bench.theirs("train", **job), work, text))
        for name in chosen:
            options = table_of[name]
            found = bench.ours("train", **job, **options)
            rows.append(rung(bench, name, found, work, options.get("text", text)))
    bench = Bench(folder, device, size, [sides[-1]], text, [SHORT, SHORT // 4])
    count = 28 if cuda else 4
    runs = {"diffusers + peft, eager": bench.theirs("generate", steps=count)}
    runs |= {name: bench.ours("generate", steps=count, **table_of[name]) for name in chosen}
    painted = [
        {"who": f"{name}: a picture", "sides": str(sides[-1]), "steps": count, "memory_gb": run["memory_gb"],
         "seconds": round(run["wall_s" if cuda else "cpu_s"], 3), "first_picture_s": run.get("first_s")}
        for name, run in runs.items()
    ]  # fmt: skip
    return aims(rows, painted, cuda and size == "full"), [*rows, *painted]


def rung(bench: Bench, name: str, found: dict[str, Any], work: dict[Any, float], text: int) -> dict[str, Any]:
    sides = bench.given["sides"]
    per_step = found["wall_s" if bench.cuda else "cpu_s"] / found["steps"]
    row = {
        "who": name, "sides": "+".join(map(str, sides)), "text": text, "steps_per_s": round(1 / per_step, 3),
        "s_per_1000": round(1000 * per_step, 1), "memory_gb": found["memory_gb"],
        "first_steps_s": round(found["warm_s"], 1) if "warm_s" in found else None,
    }  # fmt: skip
    if work and bench.cuda:
        import torch

        name_of = torch.cuda.get_device_name()
        peak = next((value for key, value in PEAK.items() if key in name_of), 0.0)
        flop = sum(work[side, text] for side in sides) / len(sides) * 1e12
        row["mfu"] = round(flop / per_step / peak, 3) if peak else None
    return row


def aims(rows: list[dict[str, Any]], painted: list[dict[str, Any]], counts_here: bool) -> dict[str, Any]:
    """What stands beside the aims: on the mix of all sizes, and of the largest picture. Off a GPU there are none."""
    mix = rows[-1]["sides"]
    of_mix = [row for row in rows if row["sides"] == mix]
    best = min(of_mix[1:], key=lambda row: row["s_per_1000"])
    quickest = min(painted[1:], key=lambda row: row["seconds"])
    figures = {"mix": mix, "best_rung": best["who"], "s_per_1000": best["s_per_1000"], "paint_s": quickest["seconds"]}
    speedup = round(of_mix[0]["s_per_1000"] / best["s_per_1000"], 3)
    if not counts_here:
        return figures | {"ladder_speedup": speedup}
    return figures | {
        "eager_ratio": speedup, "eager_ratio_aim": EAGER_AIM,
        "recipe_ratio": round(RECIPE_S / best["s_per_1000"], 3), "recipe_ratio_aim": 1.0,
        "record_ratio": round(RECORD_S / best["s_per_1000"], 3), "record_ratio_aim": 1.0,
        "paint_ratio": round(PAINT_S / quickest["seconds"], 3), "paint_ratio_aim": 1.0,
    }  # fmt: skip


# --- telling ---------------------------------------------------------------------------------------------------------


def page(head: dict[str, Any], figures: dict[str, Any], parts: dict[str, list[dict[str, Any]]]) -> str:
    ratios = [
        {"ratio (bigger is better)": k, "value": v, "aim": figures[f"{k}_aim"]}
        for k, v in figures.items() if k.endswith("_ratio")
    ]  # fmt: skip
    others = [{"figure": k, "value": v} for k, v in figures.items() if "_ratio" not in k]
    missed = verdict(figures)
    titles = {
        "loops": "One thread of a CPU; milliseconds of CPU for a step, of several runs the cheapest:",
        "counted": "Counted, not timed: a training step of the network of full size with a LoRA of rank 16 on 494 "
        "layers, forward and backward; calls of torch without views:",
        "files": "A LoRA of full size, rank 16, written and read again:",
        "ladder": "The ladder; seconds (on a CPU: of its time) for 1000 steps, and for one picture:",
    }  # fmt: skip
    where = head["device"].get("gpu", head["device"]["cpu"])
    said = [
        "# FLUX: training and painting beside diffusers and peft",
        f"{head['date']}, {where}, {head['device']['cores']} cores, load {head['load_at_start'][0]}: "
        f"`{head['command']}`",
        f"Missed: {', '.join(missed)}." if missed else "Every aim is met." if ratios else "A look, without aims.",
        table(ratios) if ratios else "",
    ]
    for name, rows in parts.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        said += [titles[name], table(rows, columns)]
    said += [
        table(others) if others else "",
        "Weights are random: cost does not hang on them, and nothing is said here about how pictures look. `tiny` has "
        "2 + 3 blocks of 32 channels and 64 + 64 tokens: a step is calls of torch rather than arithmetic. `small` has "
        "3 + 6 blocks of 512 channels and 256 + 128 tokens: it is mostly matrix products, which both do alike. For a "
        "picture both have the LoRA in the weights. "
        f"`gradient_ratio` is (1 - {COSINE}) over how far the gradients' cosine is from 1.",
    ]
    if "ladder" not in parts:
        said.append(
            "The figures of a GPU are not here: this machine has none. The aims on one H200, which the ladder holds "
            f"itself against: the default recipe's 1000 steps (512, 768 and 1024 px) in under {RECIPE_S:.0f} s, as the "
            f"record under {RECORD_S:.0f}; {EAGER_AIM:.0f} times as fast as the peer's eager loop; 28 steps at 1024 px "
            f"in under {PAINT_S} s."
        )
    return "\n\n".join(part for part in said if part) + "\n"


def options() -> argparse.Namespace:
    parser = asked(__doc__, "a tiny network, few steps")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--size", choices=("small", "full"), help="of the ladder's network; default: full, on CUDA")
    parser.add_argument("--rungs", default="", help=f"of the ladder: {'; '.join(RUNGS)}")
    parser.add_argument("--sides", default="", help="px, for example 512,1024")
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
    for package in ("torch", "diffusers", "peft", "transformers"):
        from importlib.metadata import version

        head["versions"] |= {package: version(package)}
    figures: dict[str, Any] = {}
    parts: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="image-") as temporary:
        folder = Path(temporary)
        if not size:
            figures, parts["loops"] = loops(folder, given.quick)
        if not size or cuda:
            found, parts["counted"] = counts(folder, given.quick)
            figures |= found
        if not size and not given.quick:
            parts["files"] = files(folder)
        if size:
            wanted = [name for name in given.rungs.split(",") if name]
            sides = [int(side) for side in given.sides.split(",") if side]
            found, parts["ladder"] = ladder(folder, device, size, given.quick, wanted, sides)
            figures |= found
    partly = given.quick or given.rungs or given.sides or (size == "small")
    return tell("image", given, head, figures, page(head, figures, parts), LOOKS if partly else RESULTS, **parts)


if __name__ == "__main__":
    sys.exit(main())
