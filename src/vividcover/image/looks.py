"""What can be measured in a photo cheaply: light, colours, sharpness; the person in it, how near, how turned.

Numbers for the dataset doctor and for masks. A photo is looked at once, at most at 1024 px. All on the CPU; the person
needs a `FaceKit`, everything else nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.image.classic.cutout import face_height, keep_person
from vividcover.image.classic.train import marks_of, signature
from vividcover.image.photos import Photo, difference_hash
from vividcover.patience import Patient
from vividcover.portrait.faces import Face, FaceKit
from vividcover.workspace import Reporter

SIDE = 1024  # px that a photo is looked at
MATTE_SIDE = 512  # px that people are told from their backdrop at
LEAST_FACE = 28  # px, forehead to chin, of a face that counts
SMALL = 64  # px of the picture that colours are counted in
BINS = (4, 8, 8)  # of L, a, b in Lab


@dataclass(frozen=True, slots=True)
class Person:
    """The person of the data set in a photo. Angles in degrees; `near` is the face's height / the photo's height.

    `side_light` -1..1: which half of the face is brighter; `smile` and `mouth`: width and opening / the face's height;
    `signature` [n] tells people apart roughly; `backdrop` and `clothes`: colour histograms.
    """

    face: Face
    others: int
    near: float
    side_light: float
    brightness: float
    smile: float
    mouth: float
    marks: dict[str, float]
    signature: NDArray[Any]
    matte: NDArray[Any]
    backdrop: NDArray[Any]
    clothes: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Look:
    """A photo's measures, 0..1 unless said otherwise.

    `sharp`: variance of its Laplacian; `brightness` and `contrast` of its grey; `clipped`: share of black and white
    pixels; `studio`: whether its corners are, as before a white wall; `warmth`: mean of b in Lab, -1..1; `colour`: mean
    distance from grey; `busy`: share of edges; `bars`: share of plain borders; `blocks`: strength of JPEG's 8 px grid
    (1: none); `colours`: histogram; `texture`: histogram of steps between pixels, fine and coarse; `bits`: difference
    hash; `shape`: a 12 x 12 grey picture of even brightness.
    """

    photo: Photo
    sharp: float
    brightness: float
    contrast: float
    clipped: float
    studio: bool
    warmth: float
    colour: float
    busy: float
    bars: float
    blocks: float
    colours: NDArray[Any]
    texture: NDArray[Any]
    bits: NDArray[Any]
    shape: NDArray[Any]
    person: Person | None = None


def look_at(photos: list[Photo], kit: FaceKit | None, reporter: Reporter) -> list[Look]:
    """All photos' measures. With a `kit`, people are looked for, and of several the one that the others show is taken.

    Raises `WeightsError` where the kit lacks its nets, `Canceled`.
    """
    looks: list[Look] = []
    seen: list[list[tuple[Face, NDArray[Any], NDArray[Any]]]] = []  # of each photo: face, signature, pixels
    with Patient(reporter) as patient:
        for i, photo in enumerate(photos):
            reporter.progress(i / len(photos), f"looking at {photo.name}")
            whole = photo.rgb()
            rgb = shrunk(whole)
            looks.append(patient.call(measure, photo, rgb, whole))
            faces = patient.call(kit.detect, rgb) if kit else []
            large = [face for face in faces if face_height(face) >= LEAST_FACE]
            seen.append([(face, signature(face, rgb), rgb) for face in large])
        if not any(seen):
            return looks
        alone = [found[0][1] for found in seen if len(found) == 1]
        usual = np.median(np.stack(alone or [found[0][1] for found in seen if found]), axis=0)
        for i, found in enumerate(seen):
            if kit and found:
                off = [float(np.linalg.norm(mark - usual)) for _, mark, _ in found]
                face, mark, rgb = found[int(np.argmin(off))]
                matte = patient.call(_matte, kit, rgb)
                looks[i] = _with_person(looks[i], rgb, face, mark, matte, len(found) - 1)
    return looks


def _matte(kit: FaceKit, rgb: NDArray[Any]) -> NDArray[Any]:
    """float32 [H,W]. What is learned from has an eighth of the photo's size, so half the photo's is plenty."""
    found = kit.matte(shrunk(rgb, MATTE_SIDE))
    return np.asarray(cv2.resize(found, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def shrunk(rgb: NDArray[Any], side: int = SIDE) -> NDArray[Any]:
    """uint8 [H,W,3], at most `side` px."""
    scale = side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def measure(photo: Photo, rgb: NDArray[Any], whole: NDArray[Any]) -> Look:
    """What needs no net; `whole` is the photo before it was made smaller."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    tiny = cv2.resize(rgb, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(tiny.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    shape = cv2.resize(grey, (12, 12), interpolation=cv2.INTER_AREA).astype(np.float32)
    pure = (grey < 3) | (grey > 252)
    rim = max(4, min(grey.shape) // 20)
    corners = np.array(
        [pure[y, x].mean() for y in (slice(rim), slice(-rim, None)) for x in (slice(rim), slice(-rim, None))]
    )
    edges = cv2.Canny(cv2.resize(grey, (256, 256), interpolation=cv2.INTER_AREA), 80, 160)
    return Look(
        photo=photo,
        sharp=photo.sharpness,
        brightness=float(grey.mean()) / 255,
        contrast=float(grey.std()) / 128,
        clipped=float(pure.mean()),
        studio=int((corners > 0.95).sum()) >= 3,
        warmth=float(lab[..., 2].mean()) / 128,
        colour=float(np.hypot(lab[..., 1], lab[..., 2]).mean()) / 128,
        busy=float((edges > 0).mean()),
        bars=plain_borders(grey),
        blocks=blockiness(cv2.cvtColor(whole[:SIDE, :SIDE], cv2.COLOR_RGB2GRAY)),
        colours=histogram(tiny, np.ones(tiny.shape[:2], bool)),
        texture=texture(grey),
        bits=difference_hash(grey),
        shape=(shape - shape.mean()) / (shape.std() + 1e-3),
    )


def plain_borders(grey: NDArray[Any]) -> float:
    """Share of the picture in rows and columns at its edges that are black or white all along (bars, frames)."""
    solid = []
    for lines in (grey, grey.T):
        flat = (lines.std(axis=1) < 2.0) & ((lines.mean(axis=1) < 8) | (lines.mean(axis=1) > 250))
        inner = np.flatnonzero(~flat)
        first, last = (int(inner[0]), int(inner[-1])) if len(inner) else (0, len(flat) - 1)
        both = min(first, len(flat) - 1 - last) / len(flat)  # a white wall has no bar on the other side
        solid.append(2 * both)
    return float(1 - (1 - solid[0]) * (1 - solid[1]))


def blockiness(grey: NDArray[Any]) -> float:
    """How much larger steps at every eighth column and row are than elsewhere: above 1.5, a strongly packed JPEG."""
    found = []
    for lines in (grey.astype(np.float32), grey.T.astype(np.float32)):
        steps = np.abs(np.diff(lines, axis=1)).mean(axis=0)[: (lines.shape[1] // 8) * 8 - 1]
        if len(steps) < 32:
            return 1.0
        sums = [float(np.median(steps[k::8])) for k in range(8)]
        found.append(max(sums) / (float(np.median(sums)) + 0.3))
    return min(found)


def texture(grey: NDArray[Any]) -> NDArray[np.float32]:
    """How large steps between pixels are, at 512 and at 128 px: brushwork, flat colour and photos differ. Sum 1."""
    counts = []
    for side in (512, 128):
        scale = side / max(grey.shape)
        level = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
        steps = np.hypot(cv2.Sobel(level, cv2.CV_32F, 1, 0), cv2.Sobel(level, cv2.CV_32F, 0, 1))
        counts.append(np.histogram(np.log2(steps + 1), 8, (0, 10))[0] / steps.size)
    return np.asarray(np.concatenate(counts) / 2, np.float32)


def histogram(rgb: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Colours of the chosen pixels, of sum 1 (zeros where there are too few), softened over neighbouring bins."""
    if int(where.sum()) < 12:
        return np.zeros(BINS, np.float32)
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[where]
    counts, _ = np.histogramdd(lab, BINS, ((0, 100), (-64, 64), (-64, 64)))
    padded = np.pad(counts, 1)
    soft = counts * 2
    for axis in range(3):
        for shift in (-1, 1):
            soft += np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
    return np.asarray(soft / max(soft.sum(), 1e-9), np.float32)


def apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Hellinger distance of two histograms, 0..1."""
    return float(np.sqrt(max(0.0, 1.0 - float(np.sqrt(a * b).sum()))))


def _with_person(
    look: Look, rgb: NDArray[Any], face: Face, mark: NDArray[Any], matte: NDArray[Any], others: int
) -> Look:
    size, points = face_height(face), face.landmarks
    mine = keep_person(matte, face, max(2, round(0.09 * size)))
    tiny = cv2.resize(rgb, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(mine, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    everyone = cv2.resize(matte, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    rows = np.arange(SMALL)[:, None] / SMALL * rgb.shape[0]
    chin = float(points[152, 1])
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    right, left = _patch(grey, points[50, :2], size), _patch(grey, points[280, :2], size)
    person = Person(
        face=face,
        others=others,
        near=size / rgb.shape[0],
        side_light=(left - right) / (left + right + 1e-3),
        brightness=(left + right) / 2 / 255,
        smile=float(np.linalg.norm(points[61] - points[291])) / size,
        mouth=float(np.linalg.norm(points[13] - points[14])) / size,
        marks=marks_of(rgb, face),
        signature=mark,
        matte=mine,
        backdrop=histogram(tiny, everyone < 0.1),
        clothes=histogram(tiny, (alpha > 0.9) & (rows > chin + 0.15 * size)),
    )
    return replace(look, person=person)


def _patch(grey: NDArray[Any], centre: NDArray[Any], size: float) -> float:
    """Mean grey around a point of the face."""
    x, y, r = int(centre[0]), int(centre[1]), max(2, round(0.06 * size))
    part = grey[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
    return float(part.mean()) if part.size else 0.0
