"""From what is heard to how the singer moves: one value a frame for every muscle, the head, the camera and the light.

Everything is computed for the whole song at once from 100 Hz features (some kB a minute), with symmetric smoothing
kernels that look ahead as far as they look back: the mouth is never late.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from vividcover.portrait.classic.listen import FRAME_RATE, Heard

Curve = NDArray[np.float64]  # [T]

# levels, dB
RANGE = 36.0  # below the song's loud passages: the mouth's whole travel
GATE_ON, GATE_OFF = -30.0, -36.0  # re the loud level: singing begins above the first and ends below the second
QUIETEST = -62.0  # re full scale: below this nothing is singing
# times, s
COARTICULATION = 0.030  # standard deviation of the smoothing of jaw and lips
BLIP = 0.07  # shorter sounds between silences do not open the mouth
BREATH_GAP = 0.45  # pauses from here on are breathed in
# shares
VOWEL = 0.12  # how much wider an open vowel, and narrower a close one, opens the jaw than a middle one
CONSONANT = 0.3  # how much a dip of 12 dB between louder sounds closes the jaw beyond what its level does
# amplitudes: head in degrees and face heights
SWAY = {"yaw": 4.6, "pitch": 2.0, "roll": 2.8, "x": 0.022, "y": 0.012}
NOD = 1.6  # degrees, on an emphasised syllable
BLINK_EVERY = (1.8, 5.5)  # s
BLINK_SHAPE = np.array([0.55, 1.0, 0.92, 0.6, 0.28, 0.08])  # at 25 fps: closes in 80 ms, opens in 160 ms


@dataclass(frozen=True, slots=True)
class Act:
    """Curves at the video's frame rate, each [T].

    jaw 0..1; part 0..1 lips drawn apart with the teeth together; spread -1 rounded .. 1 wide; press 0..1 lips pressed;
    lid 0..1 closed; gaze x, y in -1..1; brow 0..1; yaw, pitch, roll degrees; x, y face heights; breath 0..1;
    pulse 0..1 light on the beat; zoom 1..; pan x, y in parts of the picture; singing 0..1.
    """

    jaw: Curve
    part: Curve
    spread: Curve
    press: Curve
    lid: Curve
    gaze_x: Curve
    gaze_y: Curve
    brow: Curve
    yaw: Curve
    pitch: Curve
    roll: Curve
    x: Curve
    y: Curve
    breath: Curve
    pulse: Curve
    zoom: Curve
    pan_x: Curve
    pan_y: Curve
    singing: Curve

    def __len__(self) -> int:
        return len(self.jaw)

    def at(self, frame: int) -> dict[str, float]:
        return {field.name: float(getattr(self, field.name)[frame]) for field in fields(self)}


def smooth(curve: Curve, deviation: float, rate: float) -> Curve:
    """Gaussian smoothing without delay; `deviation` in seconds."""
    sigma = deviation * rate
    reach = max(1, int(np.ceil(3.5 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def spans(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def gate(level: Curve) -> NDArray[np.bool_]:
    """Where somebody sings, with hysteresis, blips removed. `level`: dB re the song's loud passages, at 100 Hz."""
    alive = level > GATE_OFF
    keep = np.zeros(len(level), bool)
    for start, end in spans(alive):
        if level[start:end].max() > GATE_ON and end - start >= BLIP * FRAME_RATE:
            keep[start:end] = True
    return keep


def wander(count: int, rate: float, period: float, rng: np.random.Generator) -> Curve:
    """Smooth noise of unit deviation whose turns are about `period` seconds apart."""
    knots = int(np.ceil(count / rate / period)) + 5
    values = rng.standard_normal(knots)
    at = np.arange(count) / (rate * period) + 1.5
    whole = at.astype(int)
    f = at - whole
    p0, p1, p2, p3 = (values[np.clip(whole + k, 0, knots - 1)] for k in (-1, 0, 1, 2))  # uniform cubic B-spline
    blend = (
        (1 - f) ** 3 * p0 + (3 * f**3 - 6 * f**2 + 4) * p1 + (-3 * f**3 + 3 * f**2 + 3 * f + 1) * p2 + f**3 * p3
    ) / 6
    return np.asarray(blend / 0.7)


def act(heard: Heard, frames: int, fps: int, *, beats: Curve, scale: float = 1.0, seed: int = 0) -> Act:
    """The whole performance. `beats` in seconds; `scale` multiplies the head's and the camera's movement."""
    rng = np.random.default_rng([seed, 0x51A6])
    mouth, sung = articulate(heard)
    take = _Sampler(frames, fps)
    singing = smooth(sung.astype(float), 0.25, FRAME_RATE)
    effort = smooth(mouth["jaw"], 0.35, FRAME_RATE)
    head = _head(take(singing), take(effort), take(mouth["jaw"]), fps, beats, rng, scale)
    lid = _blinks(sung, frames, fps, rng)
    gaze_x, gaze_y = _gaze(frames, fps, rng)
    brow = np.clip(smooth(np.maximum(mouth["jaw"] - effort * 0.9, 0), 0.12, FRAME_RATE) * 2.2, 0, 1)
    time = np.arange(frames) / fps
    drift = rng.uniform(0, 2 * np.pi, 3)
    return Act(
        **{name: take(mouth[name]) for name in ("jaw", "part", "spread", "press")},
        lid=lid, gaze_x=gaze_x, gaze_y=gaze_y, brow=take(brow), **head,
        breath=_breath(sung, frames, fps), pulse=_pulse(beats, frames, fps),
        zoom=1.0 + scale * (0.012 + 0.010 * np.sin(2 * np.pi * time / 19.0 + drift[0])),
        pan_x=scale * 0.004 * np.sin(2 * np.pi * time / 13.0 + drift[1]),
        pan_y=scale * 0.003 * np.sin(2 * np.pi * time / 17.0 + drift[2]),
        singing=take(singing),
    )  # fmt: skip


class _Sampler:
    """Means of a 100 Hz curve over each video frame's duration: a frame shows what sounds while it is seen."""

    def __init__(self, frames: int, fps: int) -> None:
        self.edges = np.arange(frames + 1) / fps * FRAME_RATE

    def __call__(self, curve: Curve) -> Curve:
        total = np.concatenate([[0.0], np.cumsum(curve)])
        at = np.clip(self.edges + 0.5, 0, len(curve))  # frame i of the curve covers i-0.5 .. i+0.5
        return np.asarray(np.diff(np.interp(at, np.arange(len(total)), total)) / np.maximum(np.diff(at), 1e-9))


# mouth -----------------------------------------------------------------------------------------------------------


def articulate(heard: Heard) -> tuple[dict[str, Curve], NDArray[np.bool_]]:
    """({jaw, part, spread, press}, singing) at 100 Hz."""
    voice, hiss = heard["voice"].astype(float), heard["hiss"].astype(float)
    both = np.maximum(voice, hiss)
    loud = np.percentile(both[both > QUIETEST], 92) if (both > QUIETEST).sum() > 10 else 0.0
    sung = gate(np.where(both > QUIETEST, both - loud, -200.0))
    if not sung.any():
        still = np.zeros(len(voice))
        return {"jaw": still, "part": still, "spread": still, "press": still}, sung
    level = np.where(sung, voice - loud, -60.0)
    effort = np.clip(level / RANGE + 1, 0, 1.15)
    drive = 0.6 * effort + 0.4 * np.minimum(10 ** (level / 20), 1.25) * sung
    vowel = sung & (level > -20)
    opened = _relative(heard["open"] - heard["murmur"], vowel, 5.0)
    fronted = _relative(heard["front"] - heard["back"], vowel, 7.0)
    hissing = _sigmoid((hiss - voice + 2.0) / 3.0) * sung
    dip = np.maximum(maximum_filter1d(smooth(level, 0.02, FRAME_RATE), 31) - level, 0)  # dB below the loudest in 150 ms
    murmur = _murmur(heard, dip, vowel) * sung * (1 - hissing)
    drive *= 1 - CONSONANT * np.clip(dip / 12.0, 0, 1)
    jaw = drive * (1 + VOWEL * np.tanh(opened)) * (1 - 0.42 * hissing) * (1 - 0.45 * murmur)
    rounded = _sigmoid(-2.5 * opened)  # of the back vowels only the close ones: u and o, not a
    spread = 0.75 * np.tanh(fronted) * np.where(fronted < 0, rounded, 1.0) * np.clip(effort * 1.4, 0, 1)
    part = 0.9 * hissing * np.clip((hiss - loud) / RANGE + 1.2, 0, 1) + 0.25 * np.maximum(spread, 0) * effort
    press = murmur * 0.8
    ease = {"jaw": COARTICULATION, "part": 0.03, "spread": 0.07, "press": 0.03}
    mouth = {"jaw": jaw, "part": part, "spread": spread, "press": press}
    shut = smooth(sung.astype(float), 0.03, FRAME_RATE) ** 2  # nothing leaks into the gaps
    mouth = {name: smooth(curve, ease[name], FRAME_RATE) * shut for name, curve in mouth.items()}
    mouth["jaw"], mouth["part"] = np.clip(mouth["jaw"], 0, 1.15), np.clip(mouth["part"], 0, 1)
    return mouth, sung


def _murmur(heard: Heard, dip: Curve, vowel: NDArray[np.bool_]) -> Curve:
    """0..1: m and n, for which the mouth closes: nearly all energy below 450 Hz, in a dip between louder sounds."""
    upper = np.maximum(heard["open"], heard["front"] + 6)
    closed = _relative(heard["murmur"] - upper, vowel, 1.0)
    return _sigmoid((closed - 9.0) / 1.5) * _sigmoid(dip - 3.0)


def _sigmoid(x: Curve) -> Curve:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))


def _relative(ratio: NDArray[np.floating], where: NDArray[np.bool_], unit: float) -> Curve:
    """A band ratio in dB, re the middle of its range where vowels are sung, in `unit` dB: voices and rooms differ."""
    middle = float(np.percentile(ratio[where], [15, 85]).mean()) if where.sum() > 10 else 0.0
    return np.asarray((ratio - middle) / unit, float)


# the rest of the body --------------------------------------------------------------------------------------------


def _head(
    singing: Curve, effort: Curve, jaw: Curve, fps: int, beats: Curve, rng: np.random.Generator, scale: float
) -> dict[str, Curve]:
    """Sway with the phrases and the beat, nods on emphasised syllables, the chin up on strong long notes."""
    frames = len(singing)
    lively = 0.35 + 0.65 * singing
    head = {
        name: amount * scale * lively * (0.62 * wander(frames, fps, 1.1, rng) + 0.5 * wander(frames, fps, 2.7, rng))
        for name, amount in SWAY.items()
    }
    swing = _swing(beats, frames, fps) * lively * scale
    head["roll"] += 1.0 * swing
    head["x"] += 0.008 * swing
    accent = np.clip(smooth(np.diff(jaw, prepend=jaw[:1]), 0.05, fps) * 6, 0, 1)
    head["pitch"] += scale * (
        NOD * smooth(accent, 0.09, fps) * 2 - 1.8 * smooth(np.clip(effort - 0.35, 0, 1), 0.3, fps)
    )
    return {name: smooth(curve, 0.08, fps) for name, curve in head.items()}


def _swing(beats: Curve, frames: int, fps: int) -> Curve:
    """-1..1: one way on one beat, back on the next."""
    if len(beats) < 4:
        return np.zeros(frames)
    phase = np.interp(np.arange(frames) / fps, beats, np.arange(len(beats)), left=0.0, right=len(beats) - 1.0)
    return np.asarray(np.cos(np.pi * phase))


def _pulse(beats: Curve, frames: int, fps: int) -> Curve:
    """Light that jumps up on each beat and fades within a third of a second."""
    since = np.full(frames, 9.0)
    time = np.arange(frames) / fps
    if len(beats):
        last = np.searchsorted(beats, time + 0.5 / fps, side="right") - 1
        since = np.where(last >= 0, np.maximum(time - beats[np.maximum(last, 0)], 0), 9.0)
    return np.asarray(np.exp(-since / 0.16))


def _breath(sung: NDArray[np.bool_], frames: int, fps: int) -> Curve:
    """Shoulders: slow idle breathing, and a deep breath into the end of each pause."""
    time = np.arange(frames) / fps
    breath = 0.22 * (0.5 - 0.5 * np.cos(2 * np.pi * time / 3.9))
    for start, end in spans(~sung):
        if end - start >= BREATH_GAP * FRAME_RATE and end < len(sung):
            onset, inhale = end / FRAME_RATE, min(0.55, (end - start) / FRAME_RATE)
            rise = np.clip((time - onset + inhale) / inhale, 0, 1)
            fall = np.clip((time - onset) / 1.8, 0, 1)
            breath = np.maximum(breath, (rise**2 * (3 - 2 * rise)) * (1 - fall**2 * (3 - 2 * fall)))
    return smooth(breath, 0.06, fps)


def _blinks(sung: NDArray[np.bool_], frames: int, fps: int, rng: np.random.Generator) -> Curve:
    """0 open .. 1 closed: at uneven intervals, drawn to the ends of phrases."""
    lid = np.zeros(frames)
    shape = np.interp(np.arange(0, len(BLINK_SHAPE) / 25, 1 / fps), np.arange(len(BLINK_SHAPE)) / 25, BLINK_SHAPE)
    ends = np.array([end / FRAME_RATE for _, end in spans(sung)] or [-9.0])
    time = float(rng.uniform(0.6, 2.0))
    while time < frames / fps:
        near = ends[np.argmin(np.abs(ends - time))]
        at = near + 0.08 if abs(near - time) < 0.5 else time
        first = round(at * fps)
        for k, value in enumerate(shape):
            if 0 <= first + k < frames:
                lid[first + k] = max(lid[first + k], value)
        time = max(time, at) + float(rng.uniform(*BLINK_EVERY)) * (0.12 if rng.random() < 0.06 else 1.0) + 0.3
    return lid


def _gaze(frames: int, fps: int, rng: np.random.Generator) -> tuple[Curve, Curve]:
    """Eyes that rest and jump: fixations of 0.5 to 2.5 s, mostly at the camera."""
    x, y = np.zeros(frames), np.zeros(frames)
    at = 0
    while at < frames:
        hold = round(float(rng.uniform(0.5, 2.5)) * fps)
        home = rng.random() < 0.5
        x[at : at + hold] = 0 if home else rng.uniform(-1, 1)
        y[at : at + hold] = 0 if home else rng.uniform(-0.5, 0.5)
        at += hold
    return smooth(x, 0.022, fps), smooth(y, 0.022, fps)
