"""Masks of what is to be learned, made on the CPU: the person's head and body, or the product on its backdrop.

White is learned fully, black is not: the trainer weighs its loss by them. A graded mask says that the head matters most
and the clothes less, for those may change. Own masks (NAME_mask.png, transparency) always win.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vividcover.errors import ParameterError
from vividcover.image.classic.cutout import face_height
from vividcover.image.dataset import Dataset
from vividcover.image.looks import Look, Person, look_at, shrunk
from vividcover.image.photos import Photo
from vividcover.patience import Patient
from vividcover.portrait.faces import FaceKit, guided_filter
from vividcover.progress import Part
from vividcover.workspace import Reporter, Silent

What = Literal["auto", "person", "head", "body", "product", "none"]
WHATS: tuple[str, ...] = get_args(What)
BODY = 0.6  # weight of the body beside the head's, in `person`
CUT_SIDE = 384  # px at which a product is cut out
CUT_STEPS = 4
SENSIBLE = (0.02, 0.85)  # share of a photo that a product's mask covers; others are mistakes


def add(
    dataset: Dataset,
    reporter: Reporter | None = None,
    *,
    what: What = "auto",
    kit: FaceKit | None = None,
    looks: list[Look] | None = None,
) -> Dataset:
    """The data set with a mask for every photo where one could be made; each is NAME_mask.png beside its photo.

    `person`: head white, body grey; `head`; `body`: the whole person; `product`: what stands before a plain backdrop;
    `auto`: by the data set's kind, none for a style. `looks` saves the work of looking again (with a kit).
    Raises `ParameterError`, `WeightsError` (the nets that find people are missing), `Canceled`.
    """
    reporter = reporter or Silent()
    if what not in WHATS:
        raise ParameterError(f"Unknown kind of mask {what!r}.", f"Choose one of {', '.join(WHATS)}.")
    if what == "auto":
        what = {"subject": "person", "product": "product"}.get(dataset.options.kind, "none")  # type: ignore[assignment]
    missing = [photo for photo in dataset.photos if photo.mask is None]
    made: dict[str, Photo] = {}
    if what != "none" and missing:
        if what != "product" and looks is None:
            looks = look_at(missing, kit or FaceKit(), Part(reporter, 0.0, 0.7))
        known = {look.photo.name: look for look in looks or ()}
        with Patient(reporter) as patient:
            for i, photo in enumerate(missing):
                reporter.progress(0.7 + 0.3 * i / len(missing), f"mask {i + 1} of {len(missing)}")
                mask = patient.call(_mask, photo, what, known.get(photo.name))
                if mask is not None:
                    made[photo.name] = replace(photo, mask=_write(photo, mask))
    photos = [made.get(photo.name, photo) for photo in dataset.photos]
    without = [photo.name for photo in photos if photo.mask is None]
    if what != "none" and without:
        why = "nothing stands out from its backdrop" if what == "product" else "no face was found in it"
        reporter.note(f"No mask for {', '.join(without)}: {why}, so all of it is learned.")
    told = {"what": what, "own": len(dataset.photos) - len(missing), "made": len(made), "without": without}
    masked = dataset.with_photos(photos)
    return replace(masked, report=masked.report | {"masks": told})


def _mask(photo: Photo, what: str, look: Look | None) -> NDArray[np.uint8] | None:
    rgb = shrunk(photo.rgb())
    if what == "product":
        mask = product(rgb)
    elif look is None or look.person is None:
        return None
    else:
        mask = {"person": graded, "head": head, "body": body}[what](look.person)
    return None if mask is None else np.asarray(np.clip(mask * 255 + 0.5, 0, 255), np.uint8)


def _write(photo: Photo, mask: NDArray[np.uint8]) -> Any:
    path = photo.path.with_name(f"{photo.path.stem}_mask.png")
    with Image.open(photo.path) as image:
        Image.fromarray(mask).resize(image.size, Image.Resampling.BILINEAR).save(path, compress_level=1)
    return path


# people -----------------------------------------------------------------------------------------------------------


def body(person: Person) -> NDArray[Any]:
    """The whole person, float32 [H,W] 0..1."""
    return np.asarray(person.matte, np.float32)


def head(person: Person) -> NDArray[Any]:
    """Face, hair and neck: the person within a soft ellipse around the head, turned as the head is."""
    points, size = person.face.landmarks, face_height(person.face)
    rows, columns = np.mgrid[0 : person.matte.shape[0], 0 : person.matte.shape[1]].astype(np.float32)
    top, chin = points[10, :2], points[152, :2]
    down = (chin - top) / (np.linalg.norm(chin - top) + 1e-6)
    middle = points[:, :2].mean(0) - 0.16 * size * down  # hair rises above the face's points
    x, y = columns - middle[0], rows - middle[1]
    along, across = x * down[0] + y * down[1], x * down[1] - y * down[0]
    turn = float(np.sin(np.radians(person.face.yaw)))  # of a turned head, more lies behind the face
    reach = np.hypot((across + 0.5 * size * turn) / ((0.86 + 0.2 * abs(turn)) * size), along / (0.98 * size))
    soft = np.clip((1.15 - reach) / 0.3, 0, 1)
    return np.asarray(soft * np.maximum(person.matte, _face(person)), np.float32)


def _face(person: Person) -> NDArray[Any]:
    """The face's own area, which is the person's whatever the matte says."""
    points = person.face.landmarks[:, :2]
    hull = cv2.convexHull(np.ascontiguousarray(points).astype(np.int32))
    filled = np.zeros(person.matte.shape, np.float32)
    cv2.fillConvexPoly(filled, hull, 1.0)
    return cv2.GaussianBlur(filled, (0, 0), max(1.0, 0.03 * face_height(person.face)))


def graded(person: Person) -> NDArray[Any]:
    """The head fully, the rest of the person by `BODY`."""
    return np.asarray(np.maximum(head(person), BODY * body(person)), np.float32)


# products ---------------------------------------------------------------------------------------------------------


def product(rgb: NDArray[Any]) -> NDArray[Any] | None:
    """What differs from the picture's border (GrabCut, Rother et al. 2004), float32 [H,W]; None where nothing does."""
    scale = CUT_SIDE / max(rgb.shape[:2])
    tiny = cv2.resize(rgb, None, fx=min(1.0, scale), fy=min(1.0, scale), interpolation=cv2.INTER_AREA)
    height, width = tiny.shape[:2]
    rim = max(3, round(0.03 * max(height, width)))
    border = np.ones((height, width), bool)
    border[rim:-rim, rim:-rim] = False
    lab = cv2.cvtColor(tiny.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    backdrop = _smooth_backdrop(lab, border)
    off = np.linalg.norm(lab - backdrop, axis=2)
    if float(np.median(off[border])) > 12:  # no plain backdrop: a cut would follow whatever stands at the edges
        return None
    marks = np.where(off > 16, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[border & (off < 12)] = cv2.GC_BGD
    if not SENSIBLE[0] < float((marks == cv2.GC_PR_FGD).mean()) < SENSIBLE[1]:
        return None
    cv2.setRNGSeed(1)  # GrabCut begins with random clusters
    clusters = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(tiny[..., ::-1])
    cv2.grabCut(bgr, marks, (0, 0, 0, 0), *clusters, CUT_STEPS, cv2.GC_INIT_WITH_MASK)
    solid = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8)
    solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    solid = _filled(_without_specks(solid))
    if not SENSIBLE[0] < float(solid.mean()) < SENSIBLE[1]:
        return None
    fine = guided_filter(np.ascontiguousarray(tiny), solid.astype(np.float32), 4, 1e-4)
    size = (rgb.shape[1], rgb.shape[0])
    return np.asarray(np.clip(cv2.resize(fine, size, interpolation=cv2.INTER_LINEAR), 0, 1), np.float32)


def _smooth_backdrop(lab: NDArray[Any], border: NDArray[np.bool_]) -> NDArray[Any]:
    """The border's colours carried on across the picture as a plane in each channel, fitted to most of the border."""
    rows, columns = np.mgrid[0 : lab.shape[0], 0 : lab.shape[1]]
    terms = np.stack([np.ones_like(rows), rows / lab.shape[0], columns / lab.shape[1]], -1).astype(np.float64)
    use = border.copy()
    plane = lab
    for _ in range(3):
        weights, *_ = np.linalg.lstsq(terms[use], lab[use].astype(np.float64), rcond=None)
        plane = terms @ weights
        off = np.linalg.norm(lab - plane, axis=2)
        use = border & (off <= max(4.0, float(np.percentile(off[border], 70))))
    return plane


def _without_specks(solid: NDArray[Any]) -> NDArray[Any]:
    """Parts of at least a twentieth of the largest one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count < 2:
        return solid
    return np.isin(labels, 1 + np.flatnonzero(areas >= 0.05 * areas.max())).astype(np.uint8)


def _filled(solid: NDArray[Any]) -> NDArray[Any]:
    """Without holes up to a twentieth of the picture: a label in the backdrop's colour belongs to the product."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - solid)
    small_ones = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] < 0.05 * solid.size]
    return np.where(np.isin(labels, small_ones), 1, solid).astype(np.uint8)


# to look at -------------------------------------------------------------------------------------------------------


def sheet(photos: list[Photo], side: int = 240, columns: int = 6) -> NDArray[np.uint8]:
    """Contact sheet uint8 [H,W,3]: every photo as its mask leaves it, what is not learned darkened to blue."""
    cells = []
    for photo in photos:
        rgb: NDArray[Any] = photo.rgb().astype(np.float32)
        if photo.mask is not None:
            with Image.open(photo.mask) as image:
                weight = np.asarray(image.convert("L"), np.float32)[..., None] / 255
            blue = np.array([10, 20, 110], np.float32)
            rgb = rgb * weight + (0.25 * rgb + blue) * (1 - weight)
        scale = side / max(rgb.shape[:2])
        little = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cell = np.full((side, side, 3), 30, np.uint8)
        top, left = (side - little.shape[0]) // 2, (side - little.shape[1]) // 2
        cell[top : top + little.shape[0], left : left + little.shape[1]] = np.clip(little, 0, 255).astype(np.uint8)
        cells.append(cell)
    columns = min(columns, len(cells))
    cells += [np.full((side, side, 3), 30, np.uint8)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])
