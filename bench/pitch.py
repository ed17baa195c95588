"""How well each pitch method hears, and what it costs: with the published weights that are in place.

    python bench/pitch.py            # → results/pitch.json, results/pitch.md
    python bench/pitch.py --json     # and the figures as the last line

Glides of a known pitch (a harmonic voice with vibrato, 70 to 300 and 150 to 900 Hz, 1 % noise), and the sample's spoken
and sung recordings beside Harvest, which is no truth, but another opinion. RMVPE's weights are looked at for cost only
where they are there. Costs are CPU-seconds of one thread per 10 s of sound, the net already read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from machine import RESULTS, ROOT, about, spent
from vividcover import weights
from vividcover.voice.rvc.pitch import METHODS, RATE, Tracker

# CPU-s per 10 s of the published programs (parselmouth, torchfcpe, RVC, torchcrepe) on an Intel Xeon with AMX, one
# thread, 2026-11-21, the net read before: the machine of the results that are kept.
PEER = {"pm": 0.02, "fcpe": 0.264, "rmvpe": 0.847, "crepe": 43.7, "crepe-tiny": 2.34}
VOICES = ("voice_01", "voice_06", "voice_11", "voice_16_sung")


def heard(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A recording, mono, 16 kHz."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([piece.to_ndarray()[0] for piece in [*frames, *resampler.resample(None)]])


def glide(low: float, high: float, seconds: float = 4.0) -> tuple[Any, Any]:
    """A voice that rises from `low` to `high` Hz, and its pitch every 10 ms."""
    time = np.arange(int(seconds * RATE)) / RATE
    f0 = low * (high / low) ** (time / seconds) * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * time))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    voice = sum((f0 * n < 7000) / n**1.2 * np.sin(n * phase) for n in range(1, 40))
    voice = voice / np.abs(voice).max() + 0.01 * np.random.default_rng(0).standard_normal(len(time))
    return (0.3 * voice).astype(np.float32), np.append(f0, f0[-1])[::160]


def beside(f0: Any, truth: Any) -> dict[str, float]:
    """Cents between two curves where both are voiced, and how often they agree that there is a pitch."""
    f0, truth = f0[: len(truth)], truth[: len(f0)]
    both = (f0 > 0) & (truth > 0)
    cents = np.abs(1200 * np.log2(f0[both] / truth[both]))
    return {
        "median_cents": round(float(np.median(cents)), 2),
        "within_50_cents": round(float(np.mean(cents < 50)), 3),
        "octave_slips": round(float(np.mean(cents > 600)), 3),
        "same_voicing": round(float(np.mean((f0 > 0) == (truth > 0))), 3),
    }


def measured() -> dict[str, Any]:
    sounds = [heard(ROOT / "sample" / "voice" / f"{name}.flac") for name in VOICES]
    sounds.append(heard(ROOT / "sample" / "song" / "vocals.flac")[5 * RATE : 15 * RATE])
    seconds = sum(map(len, sounds)) / RATE
    rises = [glide(70, 300), glide(150, 900)]
    opinion = np.concatenate([Tracker("harvest")(sound) for sound in sounds])
    rows: dict[str, Any] = {}
    for method, needs in METHODS.items():
        if method == "rmvpe_gpu" or (needs and not weights.has(needs)):
            continue
        tracker = Tracker(method, weights=weights)
        tracker(sounds[0][:RATE])
        with spent() as cost:
            curves = [tracker(sound) for sound in sounds]
        rows[method] = {
            "cpu_s_per_10_s": round(cost.seconds / seconds * 10, 3),
            "peer_cpu_s_per_10_s": PEER.get(method),
            "glides": beside(
                np.concatenate([tracker(sound)[5:-5] for sound, _ in rises]),
                np.concatenate([truth[5:-5] for _, truth in rises]),
            ),
            "recordings": beside(np.concatenate(curves), opinion),
        }
    return rows


def table(rows: dict[str, Any], head: dict[str, Any]) -> str:
    lines = [
        "# Pitch",
        "",
        f"{head['date']}, {head['device']['cpu']}, commit {head['commit']}, `{head['command']}`.",
        "Peer: the published program's own function on an Intel Xeon with AMX, 2026-11-21. Cents: median error.",
        "",
        "| method | CPU-s per 10 s | peer's | glides: cents | within 50 "
        "| recordings against Harvest: cents | within 50 | octave slips | same voicing |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    for method, row in rows.items():
        rise, real = row["glides"], row["recordings"]
        lines.append(
            f"| {method} | {row['cpu_s_per_10_s']} | {row['peer_cpu_s_per_10_s'] or ''} | {rise['median_cents']} "
            f"| {rise['within_50_cents']} | {real['median_cents']} | {real['within_50_cents']} "
            f"| {real['octave_slips']} | {real['same_voicing']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="print the figures as the last line")
    given = options.parse_args()
    torch.set_num_threads(1)
    head, rows = about(), measured()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pitch.json").write_text(json.dumps({"about": head, "methods": rows}, indent=1) + "\n")
    (RESULTS / "pitch.md").write_text(table(rows, head))
    print(json.dumps(rows) if given.json else table(rows, head))


if __name__ == "__main__":
    main()
