"""How a singing portrait holds up over its whole length: one look at each frame, in the judges' own environment.

    .venv-judges/bin/python bench/judges.py portrait VIDEO.mp4 --audio VOCALS.wav [--still FACE.png] [--curves out.npz]

Sync        what the judge `lips` says, and r at the best lag beside that of `SHIFTS` wrong pairings, the voice moved
            round its own length by more than a second: z = how many of their standard deviations it stands above their
            mean, `chance` = which share of them comes up to it. Level is in dB: log rms. From both curves the mean of
            the second around each frame is taken, so that syllables count and not that there are verses and pauses;
            `z_whole` is without that.
Gaps        median opening where nobody sings / at rest; at rest = on the still (at least `SHUT`, what looks shut).
Drift       of the upper face (forehead to nose, so that singing does not count), cut out by the mesh at always the same
            size, in pieces of 10 s or a third of the video: variance of its Laplacian in the last and in the worst / in
            the first; CIELAB distance of any piece's mean colour from the first's. The first second does not count: a
            face that has not moved yet was not resampled.
Flicker     of pixels that move least: amplitude at 1/0.64 s and 1/2 s (the pieces that Sonic's autoencoder and its UNet
            work in, at 12.5 frames a second) / the highest of the lines around them, the spectrum's slope taken out;
            below `UNSEEN` it is nothing.
Background  outside of `AROUND` times the face's box, beside and above: standard deviation over time, what takes longer
            than a second taken out (a camera may travel), median over pixels, in 1/255; `background_std`: with it.
Length      frames beside the sound's length.
Jitter      of the tip of the nose: median of its second difference, in face heights: a head has mass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import judges

SHIFTS = 40  # wrong pairings
LONG = 20.0  # s: in shorter videos a turn of the head counts for more than any drift
SHUT = 0.01  # face heights: a mouth that looks shut
THUMB = 48  # px, side of the small pictures that are kept of each frame
SKIN = 96  # px, side of the cut-out of the upper face
LINES = {"decoding": 1 / 0.64, "window": 1 / 2.0}  # Hz
UNSEEN = 0.05  # of 255, rms: no eye sees a line below it
STEADY = 0.4  # share of the pixels that count as those that move least
AROUND = 1.6  # times the face's box: hair is mostly inside
SEGMENT = 16.0  # s, at most, of the spectra that are averaged
CYCLES = 6  # of a flicker at least, in such a piece
NOSE, LEFT_EYE, RIGHT_EYE = 1, 263, 33


class Watched:
    """What is kept of each frame."""

    def __init__(self) -> None:
        self.opened: list[float] = []
        self.sharp: list[float] = []
        self.skin: list[np.ndarray] = []  # mean L, a, b of the upper face
        self.nose: list[np.ndarray] = []  # x, y in face heights
        self.thumbs: list[np.ndarray] = []  # [THUMB, THUMB] light of 255
        self.boxes: list[tuple[float, float, float, float]] = []  # of the face, in parts of the picture
        self.fps = 0.0

    def frame(self, picture: np.ndarray, faces: Any) -> None:
        import cv2

        light = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
        self.thumbs.append(cv2.resize(light, (THUMB, THUMB), interpolation=cv2.INTER_AREA))
        if not faces:
            for kept in (self.opened, self.sharp):
                kept.append(float("nan"))
            self.skin.append(np.full(3, np.nan))
            self.nose.append(np.full(2, np.nan))
            return
        mesh = faces[0].landmark
        self.opened.append(judges._openness(mesh, picture.shape))
        size = np.array([picture.shape[1], picture.shape[0]])
        points = np.array([[p.x, p.y] for p in mesh]) * size
        tall = float(np.linalg.norm(points[judges.FOREHEAD] - points[judges.CHIN]))
        self.nose.append(points[NOSE] / tall)
        low, high = points.min(0) / size, points.max(0) / size
        self.boxes.append((low[0], low[1], high[0], high[1]))
        upper = _upper_face(picture, points)
        grey = cv2.cvtColor(upper, cv2.COLOR_BGR2GRAY)
        self.sharp.append(float(cv2.Laplacian(grey, cv2.CV_64F).var()))
        lab = cv2.cvtColor(upper.astype(np.float32) / 255.0, cv2.COLOR_BGR2LAB)
        self.skin.append(np.median(lab.reshape(-1, 3), axis=0))


def _upper_face(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[SKIN, SKIN, 3]: upright, brows to the tip of the nose."""
    import cv2

    eyes = points[LEFT_EYE] - points[RIGHT_EYE]
    middle = (points[LEFT_EYE] + points[RIGHT_EYE]) / 2
    across = eyes / 2
    down = np.array([-across[1], across[0]])
    corners = np.float32([middle - across - 0.5 * down, middle + across - 0.5 * down, middle - across + 0.9 * down])
    target = np.float32([[0, 0], [SKIN, 0], [0, SKIN]])
    return cv2.warpAffine(picture, cv2.getAffineTransform(corners, target), (SKIN, SKIN), flags=cv2.INTER_LINEAR)


def watch(video: str, seconds: float | None = None) -> Watched:
    """Looks at every frame on its own, as the judge `lips` does."""
    import cv2

    seen, source = Watched(), cv2.VideoCapture(str(video))
    seen.fps = float(source.get(cv2.CAP_PROP_FPS))
    if not seen.fps:
        raise SystemExit(f"{video}: not a video that can be read")
    with judges.face_mesh() as mesh:
        while seconds is None or len(seen.thumbs) < seconds * seen.fps:
            more, picture = source.read()
            if not more:
                break
            seen.frame(picture, mesh.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).multi_face_landmarks)
    return seen


def portrait(
    video: str, audio: str, still: str | None = None, curves: str | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """All figures of one video. `still`: the picture whose mouth is at rest."""
    seen, rate = watch(video, seconds), 16_000
    signal = judges.read_audio(audio, rate)
    opened = np.array(seen.opened)
    rms, db = judges.levels(signal, rate, seen.fps, len(opened))
    light = steady_light(np.array(seen.thumbs))
    if curves:
        np.savez(curves, openness=opened, rms=rms, db=db, fps=seen.fps, light=light, sharp=np.array(seen.sharp))
    found = {"video": Path(video).name, "fps": seen.fps, **judges.judge_curves(opened, rms, db, seen.fps)}
    due = len(signal) / rate if seconds is None else min(seconds, len(signal) / rate)
    return found | {
        **beside_chance(opened, db, found["best_lag_db"], seen.fps),
        **gaps(opened, db, seen.fps, _rest(still)),
        **drift(np.array(seen.sharp), np.array(seen.skin), seen.fps),
        **flicker(light, seen.fps),
        **background(np.array(seen.thumbs), seen.boxes, seen.fps),
        "jitter": _round(_jitter(np.array(seen.nose)), 5),
        "length_frames_off": _round(abs(len(opened) - due * seen.fps), 2),
    }


def beside_chance(opened: np.ndarray, db: np.ndarray, lag: int, fps: float, shifts: int = SHIFTS) -> dict[str, Any]:
    """r at `lag` beside that of wrong pairings: the level moved round by more than a second."""
    level, moved = np.roll(db, lag), opened
    fine = _against(_quick_part(moved, fps), _quick_part(level, fps), fps, shifts)
    whole = _against(moved, level, fps, shifts)
    return {**fine, "shifts": shifts, "z_whole": whole["z"]}


def _against(moved: np.ndarray, level: np.ndarray, fps: float, shifts: int) -> dict[str, Any]:
    n, least = len(level), min(len(level) // 4, round(fps))
    true = judges.correlation(moved, level)
    places = np.round(np.linspace(least, n - least, shifts)).astype(int)
    wrong = np.array([judges.correlation(moved, np.roll(level, int(k))) for k in places])
    z = (true - wrong.mean()) / max(float(wrong.std()), 1e-6)
    return {
        "r_syllables": _round(true), "z": _round(z, 2), "chance": _round(float(np.mean(wrong >= true))),
        "r_of_chance_max": _round(wrong.max()),
    }  # fmt: skip


def _quick_part(values: np.ndarray, fps: float) -> np.ndarray:
    """Without the mean of the second around each place; nan stays nan."""
    wide = max(3, round(fps)) | 1
    good = np.isfinite(values)
    sums = (np.convolve(np.where(good, values, 0.0), np.ones(wide), "same"), np.convolve(good, np.ones(wide), "same"))
    return np.asarray(values - sums[0] / np.maximum(sums[1], 1))


def gaps(opened: np.ndarray, db: np.ndarray, fps: float, rest: float | None) -> dict[str, Any]:
    """How far the mouth stands open where nobody sings, beside its rest."""
    where = judges.gap_frames(db, fps) & np.isfinite(opened)
    if not where.any():
        return {"gap_open_over_rest": None}
    at_rest = max(rest or 0.0, SHUT)
    return {"gap_open_over_rest": _round(max(float(np.median(opened[where])), SHUT) / at_rest)}


def drift(sharp: np.ndarray, skin: np.ndarray, fps: float) -> dict[str, Any]:
    """Sharpness and colour of the upper face over time, beside what they were at the beginning."""
    if len(sharp) < LONG * fps:
        return {"sharp_end_over_start": None, "sharp_least_over_start": None, "skin_colour_away": None}
    second = round(fps)
    piece = max(1, min(round(10 * fps), (len(sharp) - second) // 3))
    starts = [*range(second, len(sharp) - piece, piece), len(sharp) - piece]
    level = [float(np.nanmedian(sharp[k : k + piece])) for k in starts]
    colour = [np.nanmean(skin[k : k + piece], axis=0) for k in starts]
    away = max(float(np.linalg.norm(one - colour[0])) for one in colour)
    return {
        "sharp_end_over_start": _round(level[-1] / max(level[0], 1e-9)),
        "sharp_least_over_start": _round(min(level) / max(level[0], 1e-9)), "skin_colour_away": _round(away, 2),
    }  # fmt: skip


def steady_light(thumbs: np.ndarray) -> np.ndarray:
    """[frames]: mean light, of 255, of the pixels that move least."""
    spread = thumbs.std(axis=0)
    least = spread <= np.quantile(spread, STEADY)
    return np.asarray(thumbs[:, least].mean(axis=1), np.float64)


def flicker(light: np.ndarray, fps: float) -> dict[str, Any]:
    """How the lines stand out of the spectrum around them; None where the video is too short to say."""
    length = min(len(light), round(SEGMENT * fps))
    found: dict[str, Any] = {}
    for name, line in LINES.items():
        if line * length / fps < CYCLES:
            found |= {f"flicker_{name}": None, f"flicker_{name}_255": None}
            continue
        frequencies, power = spectrum(light, length, fps)
        away = np.abs(frequencies - line) / frequencies[1]  # in bins
        there, around = away <= 1.5, (away > 2.5) & (away <= 8.5) & (frequencies > 1.5 * frequencies[1])
        slope = np.polyfit(np.log(frequencies[around]), np.log(power[around] + 1e-12), 1)  # songs sway slowly most
        height = np.sqrt(power[1:] / np.exp(np.polyval(slope, np.log(frequencies[1:]))))
        seen = float(np.sqrt(power[there].sum()))
        over = float(height[there[1:]].max() / height[around[1:]].max())
        found[f"flicker_{name}"] = _round(over if seen >= UNSEEN else min(over, 1.0))
        found[f"flicker_{name}_255"] = _round(seen)
    return found


def spectrum(light: np.ndarray, length: int, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and power at each, of 255²: the mean of pieces of `length` that overlap by half (Welch)."""
    starts = range(0, len(light) - length + 1, max(1, length // 2))
    window, time = np.hanning(length), np.linspace(-1, 1, length)
    power = np.zeros(length // 2 + 1)
    for start in starts:
        piece = light[start : start + length]
        piece = piece - np.polyval(np.polyfit(time, piece, 2), time)
        power += np.abs(np.fft.rfft(piece * window)) ** 2
    return np.fft.rfftfreq(length, 1 / fps), power * 2 / (len(starts) * length * (window**2).sum())


def background(thumbs: np.ndarray, boxes: list[tuple[float, float, float, float]], fps: float) -> dict[str, Any]:
    """Restlessness outside of `AROUND` times the face's box, in 1/255."""
    if not boxes or len(thumbs) < 2 * fps:
        return {"background_restless": None, "background_std": None}
    low, high = np.min(np.array(boxes)[:, :2], axis=0), np.max(np.array(boxes)[:, 2:], axis=0)
    middle, reach = (low + high) / 2, AROUND / 2 * (high - low)
    at = (np.arange(THUMB) + 0.5) / THUMB
    x, y = np.abs(at - middle[0]) > reach[0], (np.abs(at - middle[1]) > reach[1]) & (at < middle[1])
    outside = x[None, :] | y[:, None]  # beside and above; below is the singer's own body
    if outside.mean() < 0.05:
        return {"background_restless": None, "background_std": None}
    light = thumbs[:, outside].astype(np.float64)
    wide = max(3, round(fps)) | 1
    kernel = np.ones(wide) / wide
    padded = np.pad(light, ((wide // 2, wide // 2), (0, 0)), mode="edge")
    slow = np.apply_along_axis(lambda one: np.convolve(one, kernel, "valid"), 0, padded)
    return {
        "background_restless": _round(float(np.median((light - slow).std(axis=0)))),
        "background_std": _round(float(np.median(light.std(axis=0)))),
    }


def _rest(still: str | None) -> float | None:
    """How far the mouth stands open on the still; None without one or without a face."""
    if still is None:
        return None
    import cv2

    picture = cv2.imread(str(still))
    if picture is None:
        raise SystemExit(f"{still}: not a picture that can be read")
    with judges.face_mesh() as mesh:
        faces = mesh.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).multi_face_landmarks
    return judges._openness(faces[0].landmark, picture.shape) if faces else None


def _jitter(nose: np.ndarray) -> float:
    bends = np.linalg.norm(np.diff(nose, n=2, axis=0), axis=1)
    return float(np.nanmedian(bends)) if np.isfinite(bends).any() else 0.0


def _round(value: float, digits: int = 4) -> float | None:
    """None for what cannot be said, because no face was found."""
    return round(float(value), digits) if np.isfinite(value) else None
