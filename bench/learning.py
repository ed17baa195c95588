"""Is learning real? A small RVC voice is taught by one synthetic singer, and sings what another sang; a judge listens.

    python bench/learning.py [--steps 400] [--out bench/results]

The two singers, and the content features that stand in for ContentVec (whose weights no test can have), are those of
tests/voice/rvc/singers.py. The judge is resemblyzer's speaker encoder, in the judges' environment; it and the envelope
distance know nothing of the networks. Writes learning.json, and learning.md for people.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "voice" / "rvc")]

import numpy as np  # noqa: E402
import singers  # noqa: E402
import torch  # noqa: E402
from test_rvc_learning import converted  # noqa: E402

import machine  # noqa: E402
from judges_venv import judges_python  # noqa: E402
from vividcover.voice.rvc.config import tiny  # noqa: E402
from vividcover.voice.rvc.learn import order_of  # noqa: E402
from vividcover.voice.rvc.live import write_wav  # noqa: E402
from vividcover.voice.rvc.prepare import prepare  # noqa: E402
from vividcover.voice.rvc.state import State  # noqa: E402
from vividcover.voice.rvc.steps import NAMES, train_step  # noqa: E402

BATCH, RATE = 4, 2e-3
HEARD = singers.HEARD


def teach(folder: Path, steps: int) -> dict[str, Any]:
    """Losses on the way, and the song before and after, as files in `folder`."""
    small = tiny("v2", "24k")
    config = replace(small, segment=12 * small.hop)
    recordings = singers.write_recordings(folder / "low", singers.LOW, 10, 6.0, config.rate, seed=1)
    clips = prepare(
        sorted(recordings.iterdir()), folder / "set", config, features=singers.content(), pitch=singers.pitch
    )
    state = State.fresh(config, learning_rate=RATE)
    song = singers.sing(singers.HIGH, 8.0, HEARD, seed=99)
    target = singers.sing(singers.LOW, 16.0, HEARD, seed=500)
    for name, sound in (("song", song), ("target", target), ("untaught", converted(state, song))):
        write_wav(folder / f"{name}.wav", sound, HEARD)
    rows, began = [], time.process_time()
    while state.step < steps:
        for start in range(0, len(clips), BATCH):
            ids = order_of(range(len(clips)), 1, state.epoch)[start : start + BATCH]
            losses = train_step(state, clips.batch(ids, config, seed=1, epoch=state.epoch)).stacked()
            state.add(losses)
            rows.append(losses.tolist())
            if state.step == steps * 3 // 4:
                state.learning_rate = RATE / 5
        state.close_epoch()
        state.pace()
        print(f"step {state.step}: mel {np.mean([row[1] for row in rows[-10:]]) / 45:.3f}", flush=True)
    sung = converted(state, song)
    write_wav(folder / "taught.wav", sung, HEARD)
    mel = np.array(rows)[:, NAMES.index("mel")] / 45
    return {
        "steps": state.step, "cpu_seconds": round(time.process_time() - began, 1),
        "mel_first": round(float(mel[0]), 3), "mel_last": round(float(mel[-20:].mean()), 3),
        "mel_factor": round(float(mel[0] / mel[-20:].mean()), 2),
        "envelope_song_to_target": round(singers.distance(song, target), 3),
        "envelope_untaught_to_target": round(singers.distance(singers.read(folder / "untaught.wav"), target), 3),
        "envelope_taught_to_target": round(singers.distance(sung, target), 3),
        "envelope_taught_to_song": round(singers.distance(sung, song), 3),
    }  # fmt: skip


def judged(folder: Path) -> dict[str, float]:
    """Resemblyzer's cosines; 1 = the same voice."""
    pairs = {
        "song_to_target": ("song", "target"), "untaught_to_target": ("untaught", "target"),
        "taught_to_target": ("taught", "target"), "taught_to_song": ("taught", "song"),
    }  # fmt: skip
    jobs = [
        {"judge": "similarity", "clips": [str(folder / f"{a}.wav")], "to": [str(folder / f"{b}.wav")]}
        for a, b in pairs.values()
    ]
    command = [str(judges_python()), str(HERE / "judges.py"), "batch"]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, check=True)
    return {name: round(answer["similarity"], 3) for name, answer in zip(pairs, json.loads(done.stdout))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        found = teach(Path(work), given.steps)
        found["resemblyzer"] = judged(Path(work))
    found = {**machine.about(), **found}
    (given.out / "learning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.out / "learning.md").write_text(_page(found), encoding="utf-8")
    print(json.dumps(found, indent=1))


def _page(found: dict[str, Any]) -> str:
    heard, shape = found["resemblyzer"], {k: found[k] for k in found if k.startswith("envelope")}
    rows = [
        ("mel distance while training", "", found["mel_first"], f"{found['mel_last']} (÷ {found['mel_factor']})"),
        ("spectral envelope, distance to the target", shape["envelope_song_to_target"],
         shape["envelope_untaught_to_target"], shape["envelope_taught_to_target"]),
        ("spectral envelope, distance to the song's singer", 0, "", shape["envelope_taught_to_song"]),
        ("resemblyzer, likeness to the target", heard["song_to_target"], heard["untaught_to_target"],
         heard["taught_to_target"]),
        ("resemblyzer, likeness to the song's singer", 1, "", heard["taught_to_song"]),
    ]  # fmt: skip
    table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
    return f"""# A small voice learns

A network of the published shape with 1/60 of its weights, {found["steps"]} steps of {BATCH} clips from random weights,
one processor core: {found["cpu_seconds"]:.0f} CPU-seconds ({found["date"]}). One synthetic singer (110 Hz, long tract)
teaches; the song is of another (220 Hz, short tract), and neither it nor the target was ever learnt from. The features
are the tests' own, not ContentVec's: this shows that training works, not how well a real voice comes out.

| | the song itself | converted, at first | converted, at the end |
|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    main()
