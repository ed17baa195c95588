"""Videos of each renderer, what the judge `portrait` says of them, and whether it would see what is wrong."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cases import SAMPLE, Array, load
from machine import ask_judges, spent
from vividcover.portrait import renderers
from vividcover.portrait.faces import FaceKit
from vividcover.portrait.render import RenderSettings, perform
from vividcover.portrait.stills import read_still
from vividcover.settings import settings
from vividcover.song.pcm import RATE, write_pcm
from vividcover.weights import Shelf

QUICK_SPAN = (10.4, 18.4)  # s of the sample song: two lines and the 3 s gap between them
SEED = 0
LATE = 0.12  # s: three frames, by which the control's voice comes too late
LAG, Z, OPEN, SHARP, COLOUR, FLICKER, RESTLESS, OFF = 1, 5.0, 1.3, 0.95, 3.0, 1.2, 2.0, 1.0  # the aims
MOST = 20.0  # no ratio is given larger than this


@dataclass(frozen=True)
class Shot:
    """A still, and how it is shown."""

    name: str
    still: Path
    shown: RenderSettings


SHOTS = (
    Shot("photograph, cut out", SAMPLE / "photos" / "01.jpg", RenderSettings(keep_resolution=False, seed=SEED)),
    Shot("photograph, whole", SAMPLE / "photos" / "11.jpg", RenderSettings(paste_back=True, seed=SEED)),
)


def here(names: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Which of these renderers can run, and of the others what they lack. No names: all that there are."""
    shelf = Shelf(settings().weights)
    lacking = {name: renderers.lacks(name, shelf) for name in names or tuple(renderers.known())}
    return [name for name, lack in lacking.items() if not lack], {k: v for k, v in lacking.items() if v}


def measure(names: list[str], quick: bool, work: Path, threads: int, options: dict[str, Any]) -> dict[str, Any]:
    """Every renderer sings the sample's vocals on two stills."""
    vocals = load(SAMPLE / "song" / "vocals.flac")
    if quick:
        vocals = vocals[:, int(QUICK_SPAN[0] * RATE) : int(QUICK_SPAN[1] * RATE)]
    sung, rows = write_pcm(work / "vocals.wav", vocals), []
    for name in names:
        for shot in SHOTS:
            with spent() as cost:
                video = _video(name, shot, sung, work, threads, options)
            row = {"renderer": name, "shot": shot.name, "seconds": round(vocals.shape[1] / RATE, 1)}
            row["cpu_per_second"] = round(cost.seconds / row["seconds"], 3)
            rows.append(row | judged(video, sung, shot.still))
    return {"rows": rows, "controls": controls(Path(rows[0]["path"]), vocals, work), "figures": sum_up(rows)}


def _video(name: str, shot: Shot, sung: Path, work: Path, threads: int, options: dict[str, Any]) -> Path:
    stem = f"{name}-{shot.still.stem}"
    folder = work / stem
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run: what it had done would not be measured
    folder.mkdir()
    place, own = settings(), renderers.about(name).options
    options = {option: value for option, value in options.items() if option in own}
    means = renderers.Means(FaceKit(), Shelf(place.weights), folder, place.device, place.precision, threads, options)
    video = work / f"{stem}.mp4"
    perform(renderers.open_renderer(name, means), read_still(shot.still), sung, video, shot.shown)
    return video


def given(video: Path, vocals: Path, still: Path | None, work: Path) -> dict[str, Any]:
    """A video from anywhere, and the voice that it should follow."""
    for file in filter(None, (video, vocals, still)):
        if not file.is_file():
            raise SystemExit(f"There is no file {file}.")
    signal = load(vocals)
    sung = write_pcm(work / "vocals.wav", signal)
    row = {"renderer": "given", "shot": video.name, "seconds": round(signal.shape[1] / RATE, 1)}
    row |= judged(video, sung, still)
    return {"rows": [row], "controls": controls(video, signal, work), "figures": sum_up([row])}


def judged(video: Path, sung: Path, still: Path | None) -> dict[str, Any]:
    curves = str(sung.with_name(f"{video.stem}.npz"))
    job = {"judge": "portrait", "video": str(video), "audio": str(sung), "curves": curves}
    (answer,) = ask_judges([job | ({"still": str(still)} if still else {})])
    return answer | {"curves": curves, "path": str(video)}


def controls(video: Path, vocals: Array, work: Path) -> dict[str, Any]:
    """The same video beside a voice that comes late, and beside one that was sung backwards: the judge must object."""
    late = np.pad(vocals, ((0, 0), (round(LATE * RATE), 0)))[:, : vocals.shape[1]]
    voices = {"late": late, "backwards": np.ascontiguousarray(vocals[:, ::-1])}
    jobs = [
        {"judge": "portrait", "video": str(video), "audio": str(write_pcm(work / f"{name}.wav", signal))}
        for name, signal in voices.items()
    ]
    found = dict(zip(voices, ask_judges(jobs)))
    return {
        "late_by_frames": round(LATE * found["late"]["fps"]), "late_best_lag": found["late"]["best_lag_db"],
        "backwards_z": found["backwards"]["z"], "backwards_chance": found["backwards"]["chance"],
    }  # fmt: skip


def sum_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of all rows beside each aim. What cannot be judged (no gap, too short) has no figure."""
    frames = sum(row["frames"] for row in rows)

    def worst(key: str, largest: bool = True) -> float | None:
        values = [abs(row[key]) if largest else row[key] for row in rows if row.get(key) is not None]
        return (max(values) if largest else min(values)) if values else None

    figures: dict[str, Any] = {}

    def hold(name: str, aim: float, key: str, *more: str, most: float = MOST) -> None:
        """Not above the aim."""
        values = [value for value in (worst(one) for one in (key, *more)) if value is not None]
        if values:
            figures[f"{name}_ratio"] = round(min(aim / max(max(values), 1e-9), most), 3)
            figures[f"{name}_ratio_aim"] = 1.0

    hold("sync_lag", LAG, "best_lag_db", "best_lag_rms", most=1.0)
    figures |= {"sync_z_ratio": round(min(row["z"] or 0.0 for row in rows) / Z, 3), "sync_z_ratio_aim": 1.0}
    hold("gaps_shut", OPEN, "gap_open_over_rest")
    sharp = worst("sharp_end_over_start", largest=False)
    if sharp is not None:
        figures |= {"drift_sharp_ratio": round(sharp / SHARP, 3), "drift_sharp_ratio_aim": 1.0}
    hold("drift_colour", COLOUR, "skin_colour_away")
    hold("flicker", FLICKER, "flicker_decoding", "flicker_window")
    hold("background", RESTLESS, "background_restless")
    hold("length", OFF, "length_frames_off", most=1.0)
    lost = sum(row["faces_lost"] for row in rows)
    return figures | {"faces_kept_ratio": round(1 - lost / frames, 4), "faces_kept_ratio_aim": 1.0}
