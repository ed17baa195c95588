"""Faces and people in pictures: where they are, 468 points of each face, how the head is turned, and a soft matte.

The nets run in OpenCV's DNN module on the CPU:
- BlazeFace, short range (Bazarevsky et al. 2019, arXiv:1907.05047): boxes and 6 keypoints at 128 px;
- FaceMesh (Kartynnik et al. 2019, arXiv:1907.06724): 468 points and a confidence at 192 px;
- MediaPipe Selfie Segmentation (model card 2021): a person mask at 256 px, sharpened here by a guided filter
  (He, Sun, Tang 2013, "Guided Image Filtering").
Point numbers are FaceMesh's. All functions are deterministic; a `FaceKit` may be shared between threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover import weights
from vividcover.errors import WeightsError
from vividcover.portrait.opencv import cv2

Rgb = NDArray[np.uint8]  # [H, W, 3]
Plane = NDArray[np.float32]  # [H, W]
Points = NDArray[np.float32]  # [N, 2] or [N, 3] pixels; z grows away from the camera, same scale as x

BLAZE_SIZE = 128  # px, input of BlazeFace
BLAZE_GRIDS = ((16, 2), (8, 6))  # (cells a side, anchors a cell): strides 8 and 16 px
MESH_SIZE = 192  # px, input of FaceMesh
MATTE_SIZE = 256  # px, input of the segmentation
SCORE = 0.5  # detection probability that counts
MESH_SCORE = 0.5  # FaceMesh's own probability that its crop shows a face
OVERLAP = 0.3  # intersection over union above which two detections are one face
ROI = 1.5  # side of FaceMesh's crop, in face boxes
SMALLEST = 24  # px, faces below this are not worth looking for

RIGHT_EYE, LEFT_EYE = (33, 133), (362, 263)  # outer/inner, inner/outer corners; right = the person's right
FOREHEAD, CHIN = 10, 152
RIGHT_CHEEK, LEFT_CHEEK = 234, 454
FRONTAL_PITCH = -11.0  # degrees that the axis from forehead to chin seems to look down in a level face


@dataclass(frozen=True, slots=True)
class Face:
    """A face. `landmarks` float32 [468, 3] px; angles in degrees.

    yaw > 0: turned to the picture's right; pitch > 0: looks down; roll > 0: turned clockwise in the picture.
    The box holds the landmarks (hairline to chin, ear to ear).
    """

    x: float
    y: float
    w: float
    h: float
    score: float
    landmarks: Points
    yaw: float
    pitch: float
    roll: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x, self.y, self.w, self.h


def head_pose(landmarks: Points) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees, from the face's own axes: across the cheeks and eyes, and down to the chin."""
    p = landmarks.astype(np.float64)
    across = (p[LEFT_CHEEK] - p[RIGHT_CHEEK]) + (p[LEFT_EYE[1]] - p[RIGHT_EYE[0]])
    across /= np.linalg.norm(across)
    down = p[CHIN] - p[FOREHEAD]
    down -= across * (down @ across)
    down /= np.linalg.norm(down)
    away = np.cross(across, down)  # from the face into the head
    yaw = np.degrees(np.arctan2(-away[0], away[2]))
    pitch = np.degrees(np.arctan2(-away[1], np.hypot(away[0], away[2])))
    roll = np.degrees(np.arctan2(across[1], np.hypot(across[0], across[2])))
    return float(yaw), float(-pitch - FRONTAL_PITCH), float(roll)


def guided_filter(guide: Rgb, mask: Plane, radius: int, eps: float, shrink: int = 1) -> Plane:
    """`mask` [H, W] made to follow the edges of the colour `guide` [H, W, 3]; computed at 1/`shrink` of the size."""
    height, width = mask.shape
    small = (max(1, width // shrink), max(1, height // shrink))
    image: Plane = cv2.resize(guide, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    target: Plane = np.asarray(cv2.resize(mask, small, interpolation=cv2.INTER_AREA), np.float32)
    size = (2 * max(1, radius // shrink) + 1,) * 2

    def mean(plane: Plane) -> Plane:
        blurred: Plane = np.asarray(cv2.blur(plane, size, borderType=cv2.BORDER_REFLECT), np.float32)
        return blurred

    mu, nu = mean(image), mean(target)
    covariance = mean(image * target[..., None]) - mu * nu[..., None]  # [h, w, 3]
    sigma = np.empty((*target.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            sigma[..., i, j] = sigma[..., j, i] = mean(image[..., i] * image[..., j]) - mu[..., i] * mu[..., j]
        sigma[..., i, i] += eps
    slope = np.linalg.solve(sigma, covariance[..., None])[..., 0].astype(np.float32)
    offset = nu - np.einsum("hwc,hwc->hw", slope, mu)
    slope = cv2.resize(mean(slope), (width, height), interpolation=cv2.INTER_LINEAR)
    offset = cv2.resize(mean(offset), (width, height), interpolation=cv2.INTER_LINEAR)
    out = np.einsum("hwc,hwc->hw", slope, guide.astype(np.float32) / 255.0) + offset
    return np.asarray(np.clip(out, 0.0, 1.0), np.float32)


def blaze_anchors() -> NDArray[np.float32]:
    """[896, 2]: centre of each anchor, 0..1."""
    rows = []
    for cells, count in BLAZE_GRIDS:
        y, x = np.mgrid[0:cells, 0:cells]
        centres = np.stack([x, y], -1).reshape(-1, 1, 2)
        rows.append(np.repeat((centres + 0.5) / cells, count, axis=1).reshape(-1, 2))
    return np.concatenate(rows).astype(np.float32)


ANCHORS = blaze_anchors()


@dataclass(frozen=True, slots=True)
class _Hit:
    """A detection: box (x, y, w, h) and the centres of both eyes [2, 2], px of the whole picture."""

    score: float
    box: tuple[float, float, float, float]
    eyes: NDArray[np.float64]


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Overlap of two boxes, as a part of the smaller one where it lies inside the larger, else of their union."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = a[2] * a[3], b[2] * b[3]
    inside = w * h / min(areas)
    return inside if inside > 0.7 else w * h / (sum(areas) - w * h)


def _windows(height: int, width: int) -> Iterator[tuple[float, float, float]]:
    """Square windows (x, y, side) to look through: the whole picture, a wider view for close-ups, then tiles."""
    long, short = max(height, width), min(height, width)
    for scale in (1.0, 1.7):
        side = long * scale
        yield (width - side) / 2, (height - side) / 2, side
    side = float(short)
    tried = 0
    while side >= 4 * SMALLEST and tried < 3:  # faces of 1/7 of a window and more are found
        columns = int(np.ceil((width - side) / (side * 0.6))) + 1 if width > side else 1
        rows = int(np.ceil((height - side) / (side * 0.6))) + 1 if height > side else 1
        for y in np.linspace(0, height - side, rows):
            for x in np.linspace(0, width - side, columns):
                if (x, y, side) != ((width - long) / 2, (height - long) / 2, float(long)):
                    yield float(x), float(y), side
        side /= 2
        tried += 1


def _crop(image: NDArray[Any], matrix: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Samples `size` x `size` pixels through a 2x3 matrix (crop px to picture px), averaging when it shrinks."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    while scale > 2.0:  # halve first: bilinear sampling alone would alias
        half = (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2))
        factor = np.array([[half[0] / image.shape[1]], [half[1] / image.shape[0]]])
        image, matrix, scale = cv2.resize(image, half, interpolation=cv2.INTER_AREA), matrix * factor, scale / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=flags), np.float32)


def _main_parts(mask: Plane) -> Plane:
    """The mask without specks: parts smaller than a tenth of the largest one go."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 0.25).astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count <= 2:
        return mask
    keep = np.isin(labels, 1 + np.flatnonzero(areas >= 0.1 * areas.max())).astype(np.uint8)
    size = max(3, max(mask.shape) // 40) | 1
    near: Plane = cv2.blur(cv2.dilate(keep, np.ones((size, size), np.uint8)).astype(np.float32), (size, size))
    return np.asarray(mask * near, np.float32)


class FaceKit:
    """The three nets, loaded when first used from `folder` (default: the user's weights folder). Never downloads.

    Raises `WeightsError` where a net is missing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._nets: dict[str, Any] = {}
        self._lock = threading.Lock()  # cv2.dnn nets keep their input inside

    def _run(self, name: str, image: NDArray[np.float32], outputs: tuple[str, ...]) -> list[NDArray[np.float32]]:
        """`image` [S, S, 3] as the net wants it → its outputs."""
        with self._lock:
            if name not in self._nets:
                file = weights.path(name, self.folder)
                try:
                    self._nets[name] = cv2.dnn.readNetFromTFLite(str(file))
                except cv2.error as error:
                    raise WeightsError(
                        f"OpenCV cannot read {file}: {error}.", "Run `vividcover weights pull`."
                    ) from error
            net = self._nets[name]
            net.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))
            return [np.array(out) for out in net.forward(outputs)]

    # faces ---------------------------------------------------------------------------------------------------------

    def detect(self, rgb: Rgb) -> list[Face]:
        """All faces that both nets agree on, largest first. `rgb` uint8 [H, W, 3]."""
        faces: list[Face] = []
        hits = sorted(self._hits(rgb), key=lambda hit: -hit.score)
        kept: list[_Hit] = []
        for hit in hits:
            if all(_iou(hit.box, other.box) < OVERLAP for other in kept):
                kept.append(hit)
                face = self._mesh(rgb, hit)
                if face is not None and all(_iou(face.box, other.box) < OVERLAP for other in faces):
                    faces.append(face)
        return sorted(faces, key=lambda face: -face.w * face.h)

    def _hits(self, rgb: Rgb) -> list[_Hit]:
        height, width = rgb.shape[:2]
        found: list[_Hit] = []
        for x, y, side in _windows(height, width):
            scale = side / BLAZE_SIZE
            matrix = np.array([[scale, 0, x + scale / 2 - 0.5], [0, scale, y + scale / 2 - 0.5]])
            crop = _crop(rgb, matrix, BLAZE_SIZE)
            scores, boxes = self._run(
                "face_detection_short_range", crop / 127.5 - 1.0, ("classificators", "regressors")
            )
            probability = 1.0 / (1.0 + np.exp(-np.clip(scores.reshape(-1), -50, 50)))
            boxes = boxes.reshape(-1, 16)
            for k in np.flatnonzero(probability > SCORE):
                centre = boxes[k, :2] / BLAZE_SIZE + ANCHORS[k]
                size = boxes[k, 2:4] / BLAZE_SIZE * side
                if size.min() < SMALLEST:
                    continue
                corner = centre * side + (x, y) - size / 2
                eyes = (boxes[k, 4:8].reshape(2, 2) / BLAZE_SIZE + ANCHORS[k]) * side + (x, y)
                box = (float(corner[0]), float(corner[1]), float(size[0]), float(size[1]))
                found.append(_Hit(float(probability[k]), box, eyes.astype(np.float64)))
        return found

    def _mesh(self, rgb: Rgb, hit: _Hit) -> Face | None:
        """Points of one face: FaceMesh on the detector's box, then again on the box of its own points."""
        x, y, w, h = hit.box
        centre, side, eyes = np.array([x + w / 2, y + h / 2]), ROI * max(w, h), hit.eyes
        for _ in range(2):
            landmarks, score = self.mesh_at(rgb, centre, side, float(np.arctan2(*(eyes[1] - eyes[0])[::-1])))
            if score < MESH_SCORE:
                return None
            eyes = np.stack([landmarks[list(RIGHT_EYE), :2].mean(0), landmarks[list(LEFT_EYE), :2].mean(0)])
            low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
            centre, side = (low + high) / 2, ROI * float((high - low).max())
        size = high - low
        if size.min() < 1:
            return None
        yaw, pitch, roll = head_pose(landmarks)
        return Face(
            float(low[0]), float(low[1]), float(size[0]), float(size[1]), hit.score * score, landmarks, yaw, pitch, roll
        )

    def mesh_at(self, rgb: Rgb, centre: NDArray[np.floating], side: float, angle: float) -> tuple[Points, float]:
        """Landmarks [468, 3] px and confidence 0..1 for the face inside a square crop turned by `angle` radians."""
        scale = side / MESH_SIZE
        c, s = np.cos(angle) * scale, np.sin(angle) * scale
        middle = (MESH_SIZE - 1) / 2
        matrix = np.array([[c, -s, centre[0] - middle * (c - s)], [s, c, centre[1] - middle * (s + c)]], np.float64)
        out, flag = self._run("face_landmark", _crop(rgb, matrix, MESH_SIZE) / 255.0, ("conv2d_21", "conv2d_31"))
        points = out.reshape(468, 3).astype(np.float64)
        flat = (points[:, :2] - 0.5) @ matrix[:, :2].T + matrix[:, 2]
        landmarks = np.concatenate([flat, points[:, 2:] * scale], axis=1).astype(np.float32)
        return landmarks, float(1.0 / (1.0 + np.exp(-np.clip(flag.reshape(-1)[0], -50, 50))))

    # people --------------------------------------------------------------------------------------------------------

    def matte(self, rgb: Rgb) -> Plane:
        """How much of each pixel belongs to a person, float32 [H, W] 0..1, following hair and clothes."""
        height, width = rgb.shape[:2]
        coarse = self._segment(rgb, (0, 0, width, height))
        rows, columns = np.flatnonzero((coarse > 0.5).any(1)), np.flatnonzero((coarse > 0.5).any(0))
        if not len(rows):
            return coarse
        margin = int(0.12 * max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
        top, bottom = max(0, rows[0] - margin), min(height, rows[-1] + margin + 1)
        left, right = max(0, columns[0] - margin), min(width, columns[-1] + margin + 1)
        if (bottom - top) * (right - left) < 0.6 * height * width:  # a second, closer look
            closer = np.zeros_like(coarse)
            closer[top:bottom, left:right] = self._segment(rgb, (left, top, right, bottom))
            coarse = closer
        coarse = _main_parts(coarse)
        radius = max(4, max(height, width) // 48)
        shrink = max(1, max(height, width) // 640)
        fine = guided_filter(rgb, coarse, radius, 1e-4, shrink)
        return np.asarray(np.clip((fine - 0.06) / 0.88, 0.0, 1.0), np.float32)

    def _segment(self, rgb: Rgb, box: tuple[int, int, int, int]) -> Plane:
        left, top, right, bottom = (int(v) for v in box)
        small = cv2.resize(rgb[top:bottom, left:right], (MATTE_SIZE, MATTE_SIZE), interpolation=cv2.INTER_AREA)
        (mask,) = self._run("selfie_segmentation", small.astype(np.float32) / 255.0, ("activation_10",))
        square, size = mask.reshape(MATTE_SIZE, MATTE_SIZE), (right - left, bottom - top)
        grown: Plane = np.asarray(cv2.resize(square, size, interpolation=cv2.INTER_CUBIC), np.float32)
        return np.clip(grown, 0, 1)
