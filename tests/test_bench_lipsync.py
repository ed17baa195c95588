"""The judge of a whole portrait: what it says of curves whose answer is known beforehand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import figures  # noqa: E402
import judges_portrait as judge  # noqa: E402
import measure_sync  # noqa: E402

FPS = 25.0


def voice(seconds: float = 24.0, seed: int = 1) -> np.ndarray:
    """Level in dB of something sung: syllables of a third of a second, with two pauses."""
    frames = round(seconds * FPS)
    draw = np.random.default_rng(seed)
    syllables = np.repeat(draw.uniform(-25, 0, frames // 8 + 1), 8)[:frames]
    level = np.convolve(syllables, np.ones(3) / 3, "same")
    level[200:260] = level[400:470] = -50.0
    return level


def mouth(level: np.ndarray, noise: float = 0.01, seed: int = 2) -> np.ndarray:
    opened = np.clip((level + 30) / 30, 0, None) * 0.12
    return opened + noise * np.random.default_rng(seed).standard_normal(len(level))


def test_a_mouth_that_follows_stands_far_above_chance() -> None:
    level = voice()
    found = judge.beside_chance(mouth(level), level, 0, FPS)
    assert found["z"] > measure_sync.Z + 1 and found["chance"] == 0.0 and found["r_syllables"] > 0.8
    assert found["shifts"] >= 20


def test_a_mouth_that_only_knows_when_there_are_pauses_does_not() -> None:
    level, other = voice(seed=1), voice(seed=9)
    found = judge.beside_chance(mouth(other), level, 0, FPS)
    assert found["z"] < measure_sync.Z - 1
    assert judge.judges.correlation(mouth(other), level) > 0.4  # which plain r takes for sync


def test_a_mouth_that_never_moves_is_not_in_sync() -> None:
    level = voice()
    assert judge.beside_chance(np.full(len(level), 0.05), level, 0, FPS)["z"] == 0.0


def test_an_open_mouth_in_the_gaps_is_seen_and_a_shut_one_is_not() -> None:
    level = voice()
    shut, agape = mouth(level, noise=0.0), mouth(level, noise=0.0) + 0.06
    assert judge.gaps(shut, level, FPS, rest=0.0)["gap_open_over_rest"] == 1.0
    assert judge.gaps(agape, level, FPS, rest=0.01)["gap_open_over_rest"] > 5
    assert judge.gaps(agape, level, FPS, rest=0.06)["gap_open_over_rest"] == pytest.approx(1.0, abs=0.1)
    assert judge.gaps(agape, np.zeros(600), FPS, rest=None)["gap_open_over_rest"] is None  # nobody pauses


@pytest.mark.parametrize(("line", "name"), [(1 / 0.64, "decoding"), (0.5, "window")])
def test_a_flicker_of_the_network_s_pieces_is_found_and_noise_is_not(line: float, name: str) -> None:
    time = np.arange(round(30 * FPS)) / FPS
    noise = 0.1 * np.random.default_rng(3).standard_normal(len(time))
    calm = judge.flicker(120 + noise, FPS)
    strobing = judge.flicker(120 + noise + 0.5 * np.sin(2 * np.pi * line * time), FPS)
    assert strobing[f"flicker_{name}"] > 3 and strobing[f"flicker_{name}_255"] == pytest.approx(0.35, abs=0.1)
    assert calm[f"flicker_{name}"] < measure_sync.FLICKER
    sways = judge.flicker(120 + 2 * np.sin(2 * np.pi * 0.13 * time + 1) + np.cumsum(noise), FPS)
    assert sways[f"flicker_{name}"] < measure_sync.FLICKER  # a head that sways is no line
    weak = judge.flicker(120 + 0.01 * np.sin(2 * np.pi * line * time), FPS)
    assert weak[f"flicker_{name}"] <= 1.0  # nobody sees a fiftieth of a grey level
    assert judge.flicker(np.full(20, 120.0), FPS)["flicker_window"] is None  # too short to say


def test_a_face_that_grows_soft_or_changes_colour_is_found() -> None:
    frames = round(30 * FPS)
    fades, skin = np.linspace(200, 140, frames), np.tile([60.0, 10, 15], (frames, 1))
    assert judge.drift(fades, skin, FPS)["sharp_end_over_start"] < 0.85
    skin[:, 1] += np.linspace(0, 9, frames)
    found = judge.drift(np.full(frames, 200.0), skin, FPS)
    assert found["sharp_end_over_start"] == 1.0 and 4 < found["skin_colour_away"] < 8
    assert judge.drift(fades[:200], skin[:200], FPS)["skin_colour_away"] is None  # 8 s say nothing of drift


def test_a_background_that_boils_is_told_from_a_camera_that_travels() -> None:
    frames = round(10 * FPS)
    still = np.full((frames, judge.THUMB, judge.THUMB), 100.0, np.float32)
    boxes = [(0.4, 0.4, 0.6, 0.65)] * frames
    travels = still + np.linspace(0, 30, frames, dtype=np.float32)[:, None, None]
    boils = still + np.random.default_rng(4).normal(0, 4, still.shape).astype(np.float32)
    assert judge.background(travels, boxes, FPS)["background_restless"] < 1.0
    assert judge.background(travels, boxes, FPS)["background_std"] > 5.0
    assert judge.background(boils, boxes, FPS)["background_restless"] > 3.0
    face = still.copy()
    face[:, 20:31, 20:28] += np.random.default_rng(5).normal(0, 40, (frames, 11, 8)).astype(np.float32)
    assert judge.background(face, boxes, FPS)["background_restless"] == 0.0  # the singer may move
    everywhere = [(0.0, 0.0, 1.0, 1.0)] * frames
    assert judge.background(still, everywhere, FPS)["background_restless"] is None


def row(**other: Any) -> dict[str, Any]:
    good = {
        "frames": 750, "faces_lost": 0, "best_lag_db": 0, "best_lag_rms": -1, "z": 8.0, "gap_open_over_rest": 1.0,
        "sharp_end_over_start": 1.0, "skin_colour_away": 0.4, "flicker_decoding": 0.8, "flicker_window": 1.0,
        "background_restless": 0.1, "length_frames_off": 0.4,
    }  # fmt: skip
    return good | other


@pytest.mark.parametrize(
    ("other", "missed"),
    [
        ({}, []), ({"best_lag_db": -2}, ["sync_lag_ratio"]), ({"z": 4.0}, ["sync_z_ratio"]),
        ({"z": None}, ["sync_z_ratio"]), ({"gap_open_over_rest": 1.5}, ["gaps_shut_ratio"]),
        ({"sharp_end_over_start": 0.9}, ["drift_sharp_ratio"]), ({"skin_colour_away": 4.0}, ["drift_colour_ratio"]),
        ({"flicker_window": 1.5}, ["flicker_ratio"]), ({"background_restless": 3.0}, ["background_ratio"]),
        ({"length_frames_off": 2.0}, ["length_ratio"]), ({"faces_lost": 3}, ["faces_kept_ratio"]),
        ({"gap_open_over_rest": None, "flicker_window": None, "flicker_decoding": None}, []),
    ],
)  # fmt: skip
def test_the_worst_video_decides_and_each_fault_has_its_own_figure(other: dict[str, Any], missed: list[str]) -> None:
    assert figures.verdict(measure_sync.sum_up([row(), row(**other)])) == missed


def test_a_renderer_without_its_weights_is_named_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure_sync, "Shelf", lambda _: type("Empty", (), {"has": lambda self, name: False})())
    names, lacking = measure_sync.here(("sonic",))
    assert names == [] and "sonic-unet" in lacking["sonic"]
