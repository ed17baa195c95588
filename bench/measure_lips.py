"""Lip sync of the singing portrait, by a face mesh that the engine does not use, and stillness where nobody sings.

The prototype's figures here are those it reached on other pictures with clean singing (its renderer is not rebuilt):
r against the level in dB and against rms, at no lag. Ours are taken outside the long gaps, because silence with a shut
mouth is easily right and would lift r.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cases import SAMPLE, Array, load
from figures import ratio
from machine import ask_judges, spent
from vividcover.image.classic.generate import generate
from vividcover.image.classic.train import train
from vividcover.portrait.classic.portrait import portrait
from vividcover.portrait.faces import FaceKit
from vividcover.settings import settings
from vividcover.song.pcm import RATE, write_pcm

PROTOTYPE_R_DB, PROTOTYPE_R_RMS = 0.74, 0.85  # means over its four pictures at lag 0
LAG_FRAMES = 1  # the aim: the best lag lies within one frame
STILL_AIM = 0.85  # at most 15 % of the singing mouth's movement in gaps; ours, the prototype has no figure
PROMPT, SIDE, SEED = "TOK on stage performing, purple light", 768, 0
QUICK_SPAN = (10.4, 18.4)  # s of the sample song: two lines and the 3 s gap between them
CONSENT = "Measurement on the sample person, who does not exist."


def measure(quick: bool, work: Path, threads: int, given: tuple[Path, Path] | None = None) -> dict[str, Any]:
    """Portraits of the sample's still (in full: and of a photograph) singing the sample's vocals.

    `given`: a picture and clean singing of the user's, for example those that the prototype's figures come from.
    """
    work.mkdir(parents=True)
    kit = FaceKit(settings().weights)
    model, still = work / "image.tar", work / "still.png"
    train(_photos(quick, work), model, kit=kit, name="vivi", trigger_word="TOK", kind="subject", consent=CONSENT)
    made = generate(model, PROMPT, seed=SEED, width=SIDE, height=SIDE, kit=kit)
    Image.fromarray(made.rgb).save(still)
    vocals = load(SAMPLE / "song" / "vocals.flac")
    phrase = vocals[:, int(QUICK_SPAN[0] * RATE) : int(QUICK_SPAN[1] * RATE)]
    rows = [_one("generated still, clean vocals", still, phrase if quick else vocals, kit, work, threads)]
    if not quick:
        rows.append(_one("photograph, clean vocals", SAMPLE / "photos" / "01.jpg", phrase, kit, work, threads))
    if given:
        rows.append(_one("given picture, given singing", given[0], load(given[1]), kit, work, threads))
    return {"rows": rows, **_sum_up(rows)}


def _photos(quick: bool, work: Path) -> Path:
    if not quick:
        return SAMPLE / "photos"
    few = work / "photos"
    few.mkdir()
    for photo in sorted((SAMPLE / "photos").glob("*.jpg"))[:3]:
        shutil.copy(photo, few)
    return few


def _one(name: str, still: Path, vocals: Array, kit: FaceKit, work: Path, threads: int) -> dict[str, Any]:
    stem = work / name.split(",")[0].replace(" ", "-")
    sung, video = write_pcm(stem.with_suffix(".wav"), vocals), stem.with_suffix(".mp4")
    with spent() as cost:
        portrait(still, sung, video, kit=kit, seed=SEED, threads=threads)
    curves = str(stem.with_suffix(".npz"))
    (answer,) = ask_judges([{"judge": "lips", "video": str(video), "audio": str(sung), "curves": curves}])
    seconds = vocals.shape[1] / RATE
    return {
        "portrait": name, "seconds": round(seconds, 1), "curves": curves,
        "cpu_per_second": round(cost.seconds / seconds, 3),
    } | {k: v for k, v in answer.items() if k != "video"}  # fmt: skip


def _sum_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    frames, lost = sum(row["frames"] for row in rows), sum(row["faces_lost"] for row in rows)
    lag = max(abs(row["best_lag_db"]) for row in rows)
    moved = [row["gap_movement"] for row in rows if row["gap_movement"] is not None]
    figures = {
        "lips_lag_ratio": round(LAG_FRAMES / max(lag, LAG_FRAMES), 3), "lips_lag_ratio_aim": 1.0,
        "lips_faces_kept_ratio": round(1 - lost / frames, 4), "lips_faces_kept_ratio_aim": 1.0,
    }  # fmt: skip
    if moved:
        figures |= {"lips_stillness_ratio": round(1 - max(moved), 3), "lips_stillness_ratio_aim": STILL_AIM}
    means = {}
    for name, kind in (("lips", False), ("lips_given", True)):
        some = [row for row in rows if row["portrait"].startswith("given") == kind]
        if some:
            r_db, r_rms = (float(np.mean([row[f"{key}_outside_gaps"] for row in some])) for key in ("r_db", "r_rms"))
            means[name] = {"r_db_outside_gaps": round(r_db, 3), "r_rms_outside_gaps": round(r_rms, 3)}
            figures |= {
                f"{name}_r_db_ratio": ratio(r_db, PROTOTYPE_R_DB), f"{name}_r_db_ratio_aim": 1.0,
                f"{name}_r_rms_ratio": ratio(r_rms, PROTOTYPE_R_RMS), f"{name}_r_rms_ratio_aim": 1.0,
            }  # fmt: skip
    return {"figures": figures, "means": means, "worst_lag_frames": lag, "faces_lost": lost, "frames": frames}
