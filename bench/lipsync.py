"""Do the lips follow the voice, and does the picture hold: judged by a face mesh that no renderer uses.

    python bench/lipsync.py                             every renderer that has its nets, on two stills of the sample
    python bench/lipsync.py --quick --json              8 s of song, under a minute; the last line is one JSON object
    python bench/lipsync.py --engine neural [--mode exact]      Sonic, when its weights are here
    python bench/lipsync.py --renderer NAME             any other (docs/guide/adding-a-renderer.md)
    python bench/lipsync.py --video OUT.mp4 --vocals VOICE.flac [--still FACE.png]      a video from anywhere

The judge is mediapipe 0.10.21 in an environment of its own (bench/judges_venv.py); what it measures, and how, stands
in bench/judges_portrait.py. Each figure is the worst of all videos beside its aim, and bigger is better. That the judge
can say no is shown in the same run: the first video is also judged beside a voice that comes 120 ms late, and beside
the same voice backwards. Results of full runs go to bench/results/lipsync.json, .md and .png; others to bench/.work/.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import measure_sync
from figures import table, verdict
from machine import LOOKS, RESULTS, about, asked, tell
from sheets import WIDTH, lips_sheet

ENGINES = {"classic": "classic", "neural": "sonic"}
SHOWN = 8  # frames of each video on the sheet
COLUMNS = (
    "seconds", "frames", "faces_lost", "best_lag_db", "r_db", "r_db_outside_gaps", "r_syllables", "z", "chance",
    "gap_open_over_rest", "gap_movement", "sharp_end_over_start", "skin_colour_away", "flicker_decoding",
    "flicker_window", "background_restless", "background_std", "jitter", "length_frames_off", "cpu_per_second",
)  # fmt: skip
NOT_MEASURED = (
    "How far the mouth opens is judged, not which shapes it makes (no visemes, no SyncNet: its weights are not here).",
    "Identity is judged by sharpness and colour only; nobody looked at teeth.",
    "On the classic renderer drift and flicker can hardly be missed: each frame is made from the photograph itself.",
)


def page(head: dict[str, Any], found: dict[str, Any], lacking: dict[str, str]) -> str:
    """The result for people."""
    device, figures = head["device"], found["figures"]
    missed, control = verdict(figures), found["controls"]
    lines = [
        "# Lips and steadiness", "",
        f"{head['date']}, {device['cpu']}, {device['cores']} cores, commit {head['commit']}: `{head['command']}`", "",
        f"Missed: {', '.join(missed) if missed else 'nothing'}.", "",
        table([{"worst of all, over its aim (bigger is better)": k, "value": v, "aim": figures[f"{k}_aim"]}
               for k, v in figures.items() if k.endswith("_ratio")]),
        "## Each video", "",
        table([{"what": key, **{f"{row['renderer']}: {row['shot']}": row.get(key) for row in found["rows"]}}
               for key in COLUMNS]),
        "Lags are in frames (> 0: the lips come late); what the rest means stands in `bench/judges_portrait.py`.", "",
        "## Would the judge object?", "",
        f"The voice {control['late_by_frames']} frames late: best lag {control['late_best_lag']}. Sung backwards: "
        f"z {control['backwards_z']}, {control['backwards_chance']:.0%} of wrong pairings come up to it.", "",
    ]  # fmt: skip
    lines += [f"- {name} was not measured: {lack}" for name, lack in lacking.items()]
    return "\n".join([*lines, "", "## Not measured", "", *(f"- {line}" for line in NOT_MEASURED), ""])


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """For each video some of its frames, from shut to wide open, and its mouth's curve over the voice's."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            curve = Path(folder) / "curve.png"
            lips_sheet([(f"{row['renderer']}, {row['shot']}", Path(row["curves"]))], curve)
            pictures += [cv2.imread(str(curve)), _strip(Path(row["path"]), Path(row["curves"]))]
    out.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(out), np.concatenate(pictures))


def _strip(video: Path, curves: Path) -> NDArray[np.uint8]:
    """Frames BGR beside one another, by how far the mouth is open."""
    with np.load(curves) as data:
        opened = np.nan_to_num(data["openness"])
    order = np.argsort(opened, kind="stable")
    wanted = [int(order[k]) for k in np.linspace(0, len(order) - 1, SHOWN).round().astype(int)]
    kept: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                rgb = frame.to_ndarray(format="bgr24")
                height = round(rgb.shape[0] * (WIDTH // SHOWN) / rgb.shape[1])
                small = cv2.resize(rgb, (WIDTH // SHOWN, height), interpolation=cv2.INTER_AREA)
                kept[number] = np.asarray(small, np.uint8)
    strip = np.concatenate([kept[number] for number in wanted], axis=1)
    return np.pad(strip, ((0, 6), (0, WIDTH - strip.shape[1]), (0, 0)), constant_values=255)


def _names(given: argparse.Namespace) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(ENGINES[one] for one in given.engine or ()), *(given.renderer or ())]))


def main() -> int:
    parser = asked(__doc__, "8 s of song; the classic renderer takes a minute on two free cores, Sonic needs a GPU")
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="only this engine's renderer")
    parser.add_argument("--renderer", action="append", metavar="NAME", help="only this renderer")
    parser.add_argument("--mode", choices=("exact", "fast"), default="fast", help="of Sonic")
    parser.add_argument("--video", type=Path, help="judge this video")
    parser.add_argument("--vocals", type=Path, help="the voice that it should follow")
    parser.add_argument("--still", type=Path, help="the picture that it was made from: its mouth is at rest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the videos here")
    given = parser.parse_args()
    if (given.video is None) != (given.vocals is None):
        parser.error("--video and --vocals go together")
    names, lacking = measure_sync.here(_names(given))
    if given.video is None and not names:
        raise SystemExit("\n".join(f"{name}: {lack}" for name, lack in lacking.items()))
    full = not (given.quick or given.video or _names(given))
    head, out = about(), RESULTS if full else LOOKS
    with tempfile.TemporaryDirectory(prefix="lipsync-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if given.video:
            found, lacking = measure_sync.given(given.video, given.vocals, given.still, work), {}
        else:
            options = {"mode": given.mode}
            found = measure_sync.measure(names, given.quick, work, given.threads, options)
        draw(found["rows"], out / "lipsync.png")
    rows = [{k: v for k, v in row.items() if k not in ("curves", "path")} for row in found["rows"]]
    text = page(head, found, lacking)
    return tell(
        "lipsync", given, head, found["figures"], text, out, rows=rows, controls=found["controls"], lacking=lacking,
        not_measured=NOT_MEASURED,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
