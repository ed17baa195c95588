"""What the neural voice costs: conversion and training step, beside RVC's own code in one run.

    python bench/voice.py                       about ten minutes on a free core
    python bench/voice.py --quick --json        about a minute on a free core; the last line is one JSON object
    python bench/voice.py --peer FOLDER         with a checkout of the peer that is already there
    python bench/voice.py --long                also the memory that a song of six minutes takes

The peer is RVC as replicate/train-rvc-model runs it (`peers/rvc_peer.py`), cloned at a pinned commit. Both get the same
random weights of full size (48k, v2), the same song and the same training batch, one after the other, each in a process
of its own at one thread; what counts is CPU-seconds (user and system), because cores are shared. On a CUDA device wall
seconds count instead: the real-time factor, and a step's time.
Results go to bench/results/voice.json and .md; those of --quick to bench/.work/.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from figures import table, verdict
from machine import LOOKS, RESULTS, about, asked, child, tell

sys.path.insert(0, str(Path(__file__).parent / "peers"))
HERE = Path(__file__).parent
INFER_AIM, TRAIN_AIM = 3.5, 1.8  # times cheaper than the peer
CLOSE_DB = 0.25  # mean log-mel distance within which bfloat16 may be the default
SAME = 1e-3  # largest difference from the peer's samples, with parity, in float32 (it rounds to 16 bits)
DEFAULTS = {"index_rate": 0.5, "rms_mix_rate": 0.25, "protect": 0.33}
SECONDS, QUICK_SECONDS = 10, 3  # of song


class Bench:
    """A folder with what both read, and the two sides."""

    def __init__(self, folder: Path, peer: Path, device: str, quick: bool) -> None:
        self.folder, self.peer, self.device, self.quick = folder, peer, device, quick
        self.cuda = device.startswith("cuda")
        # before anything is counted: what is made once for each length of a piece weighs in a short song, not in a long
        self.warm = {"warm_s": QUICK_SECONDS if quick else 0.5, "warm": 1}
        made = self.ours("prepare", vectors=3000 if quick else 20_000, seconds=QUICK_SECONDS if quick else SECONDS,
                         batch=1 if quick else 4, frames=120 if quick else 370)  # fmt: skip
        self.index, self.config = made["index"], made["config"]
        self.theirs("rmvpe", out=str(folder / "work" / "rmvpe.pt"))

    def ours(self, kind: str, **job: Any) -> dict[str, Any]:
        job = {"kind": kind, "folder": str(self.folder / "work"), "device": self.device, **self.warm, **job}
        return child(HERE / "measure_neural.py", job, self.folder)

    def theirs(self, kind: str, **job: Any) -> dict[str, Any]:
        job = {"kind": kind, "device": self.device, "half": self.cuda, **self.warm, **job}
        return child(HERE / "peers" / "rvc_peer.py", job, self.folder, str(self.peer))

    def sing(self, name: str, song: str = "song.wav", dtype: str = "auto", **more: Any) -> dict[str, Any]:
        result = self.ours("infer", song=song, out=f"{name}.wav", dtype=dtype, **DEFAULTS | more)
        return {"who": f"vividcover, {name}", **result}

    def peer_sings(self, name: str, **more: Any) -> dict[str, Any]:
        work = self.folder / "work"
        job = {
            "rate": 48_000, "config": self.config, "voice": str(work / "voice" / "bench.pth"),
            "hubert": str(work / "hubert"), "rmvpe_root": str(work), "audio": str(work / "song.npy"),
            "index": self.index, "out": str(self.folder / f"{name}.npy"), **DEFAULTS,
        }  # fmt: skip
        result = self.theirs("infer", **job | more)
        return {"who": f"RVC, {name}", "dtype": "float16" if self.cuda else "float32", **result}

    def peer_learns(self, steps: int) -> dict[str, Any]:
        job = {
            "work": str(self.folder), "config_file": "configs/v2/48k.json", "rate_name": "48k", "steps": steps,
            "batch": 1 if self.quick else 4, "batch_file": str(self.folder / "work" / "batch.npz"),
        }  # fmt: skip
        return {"who": "RVC", "dtype": "float16" if self.cuda else "float32", **self.theirs("train", **job)}


def log_mel_db(one: Path, other: Path) -> float:
    """Mean distance of two recordings in dB over 128 mel bands, 10 ms apart; bands below -80 dB count as that."""
    import torch

    from vividcover.song.pcm import read_pcm
    from vividcover.voice.rvc.mel import bands, spectrogram

    logs = []
    for file in (one, other):
        samples, rate = read_pcm(file)
        power = bands(rate, 2048, 128) @ spectrogram(torch.from_numpy(samples[:1]), 2048, 441)
        logs.append(20 * torch.log10(power.clamp(min=1e-4)))
    return float((logs[0] - logs[1]).abs().mean())


def relative(one: Path, other: Path) -> float:
    from vividcover.song.pcm import read_pcm

    a, b = read_pcm(one)[0][0], read_pcm(other)[0][0]
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def fidelity(bench: Bench) -> dict[str, float]:
    """How far bfloat16 is from float32, another seed from the first, and parity from the peer, nothing random."""
    work = bench.folder / "work"
    bench.sing("float32", dtype="fp32")
    bench.sing("another seed", dtype="fp32", seed=1)
    found = {
        "bf16_logmel_db": round(log_mel_db(work / "float32.wav", work / "default.wav"), 4),
        "bf16_relative_error": round(relative(work / "float32.wav", work / "default.wav"), 5),
        "another_seed_logmel_db": round(log_mel_db(work / "float32.wav", work / "another seed.wav"), 4),
    }
    if not bench.cuda:
        bench.peer_sings("quiet", quiet=True)
        found |= bench.ours("parity", dtype="fp32", theirs=str(bench.folder / "quiet.npy"), **DEFAULTS)
    return found


def measure(bench: Bench, long: bool) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    unit = "wall_s" if bench.cuda else "cpu_s"
    default, theirs = bench.sing("default"), bench.peer_sings("default")
    rows = [theirs, default]
    if not bench.quick:
        rows += [bench.sing("with 40 % rests", "rests.wav")]
    close = {} if bench.quick else fidelity(bench)
    steps = 1 if bench.quick else (20 if bench.cuda else 2)
    learnt = bench.ours("train", dtype="auto", steps=steps)
    peer_learnt = bench.peer_learns(steps)
    learning = [peer_learnt, {"who": "vividcover", **learnt}]
    for row in rows:
        row["per_audio_s"] = round(row[unit] / row["audio_s"], 4)
    for row in learning:
        row["per_step"] = round(row[unit] / row["steps"], 4)
    figures = {
        "conversion_ratio": round(theirs["per_audio_s"] / default["per_audio_s"], 3),
        "conversion_ratio_aim": INFER_AIM,
        "training_step_ratio": round(learning[0]["per_step"] / learning[1]["per_step"], 3),
        "training_step_ratio_aim": TRAIN_AIM,
        **close,
    }
    if close:
        measured = max(close["bf16_logmel_db"], 1e-4)
        figures |= {"fidelity_ratio": round(CLOSE_DB / measured, 3), "fidelity_ratio_aim": 1.0}
    if "parity_difference" in close:
        figures |= {"parity_ratio": round(SAME / max(close["parity_difference"], 1e-6), 3), "parity_ratio_aim": 1.0}
    if long:
        peaks = [bench.ours("memory", long_s=seconds, dtype="auto") for seconds in (60, 360)]
        figures |= {f"peak_mb_{p['seconds']}_s": p["peak_mb"] for p in peaks}
        figures |= {"memory_ratio": round(peaks[0]["peak_mb"] / peaks[1]["peak_mb"], 3), "memory_ratio_aim": 0.95}
    return figures, rows, learning


def peer_folder(given: str | None, work: Path) -> Path:
    """The peer's code: as given, or cloned."""
    from rvc_peer import COMMIT, REPOSITORY

    if given:
        return Path(given).resolve()
    folder = LOOKS / f"rvc-{COMMIT[:8]}"
    if not (folder / "infer").is_dir():
        folder.parent.mkdir(exist_ok=True)
        clone = ["clone", "-q", "--filter=blob:none", REPOSITORY, str(folder)]
        for words in (clone, ["-C", str(folder), "checkout", "-q", COMMIT]):
            done = subprocess.run(["git", *words], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(
                    f"The peer could not be cloned: {done.stderr.strip()} (--peer FOLDER takes a checkout)"
                )
    return folder


def page(head: dict[str, Any], figures: dict[str, Any], rows: list[Any], learning: list[Any], unit: str) -> str:
    ratios = [
        {"ratio (bigger is better)": k, "value": v, "aim": figures[f"{k}_aim"]}
        for k, v in figures.items() if k.endswith("_ratio")
    ]  # fmt: skip
    others = [{"figure": k, "value": v} for k, v in figures.items() if "_ratio" not in k]
    missed = verdict(figures)
    return "\n\n".join([
        "# The neural voice: conversion and training step beside RVC's",
        f"{head['date']}, {head['device']['cpu']}, {head['device']['cores']} cores, "
        f"load {head['load_at_start'][0]}: `{head['command']}`",
        f"Missed: {', '.join(missed)}." if missed else "Every aim is met.",
        table(ratios),
        f"Conversion, 48k v2, RMVPE, index; {unit} per second of audio:",
        table(rows, ["who", "dtype", "audio_s", "cpu_s", "wall_s", "per_audio_s"]),
        f"Training step, 48k v2; {unit} per step:",
        table(learning, ["who", "dtype", "steps", "cpu_s", "wall_s", "per_step"]),
        table(others),
        "bfloat16 is the default only where the hardware has it. Its mean log-mel distance from float32 must "
        f"stay under {CLOSE_DB} dB; `another_seed_logmel_db` is that of two float32 results with other noise. "
        "`parity_difference` is the largest difference from the peer's own samples with everything random set to zero. "
        "Weights are random, of full size: cost does not hang on them, and nothing is said here about how it sounds.",
    ])  # fmt: skip


def main() -> int:
    parser = asked(__doc__, "three seconds of song, one small step")
    parser.add_argument("--peer", metavar="FOLDER", help="a checkout of the peer; otherwise it is cloned")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--long", action="store_true", help="also the memory of six minutes")
    given = parser.parse_args()
    from vividcover.tensors import pick_device

    device = str(pick_device(given.device))
    head = about()
    if device.startswith("cuda"):
        import torch

        head["device"] |= {"gpu": torch.cuda.get_device_name()}
    with tempfile.TemporaryDirectory(prefix="voice-") as temporary:
        work = Path(temporary)
        bench = Bench(work, peer_folder(given.peer, work), device, given.quick)
        figures, rows, learning = measure(bench, given.long)
    text = page(head, figures, rows, learning, "wall seconds" if device.startswith("cuda") else "CPU-seconds")
    out = LOOKS if given.quick else RESULTS
    return tell("voice", given, head, figures, text, out, conversion=rows, training=learning)


if __name__ == "__main__":
    sys.exit(main())
