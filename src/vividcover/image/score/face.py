"""Is it the same person? By a recognition net where one is at hand, else by the proportions of the face.

The net is one that OpenCV's `FaceRecognizerSF` reads (SFace, Zhong et al. 2021, arXiv:2205.12010; 112 px, five points):
the cosine of two faces of one person is above .363 by its makers' measure. Without it, the 16 points that speech hardly
moves and the colour of the skin are compared, as the classic trainer does to find one person in many photos: that tells
different faces apart, not look-alikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ImageError, WeightsError
from vividcover.image.classic.cutout import face_height
from vividcover.image.classic.train import signature
from vividcover.image.score.panel import Rgb
from vividcover.portrait.faces import Face, FaceKit
from vividcover.portrait.opencv import cv2

FRONTAL = 35.0  # degrees of yaw up to which proportions can be read
ALIKE = 0.55  # distance of two signatures at which the likeness is 1/e; one person's photographs are .15 to .55 apart
FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))  # both eyes, nose, corners of the mouth: what SFace aligns by
SMALLEST = 48  # px, forehead to chin


class Likeness:
    """Likeness of the largest face to that of the photographs; 0 where a picture shows none.

    Raises `ImageError` when no photograph shows a face, `WeightsError` for a net that cannot be read.
    """

    name = "face"

    def __init__(self, references: Sequence[Rgb], kit: FaceKit, net: Path | None = None) -> None:
        self.kit, self.net = kit, _recogniser(net) if net else None
        known = [face for face in (self._features(photo) for photo in references) if face is not None]
        if not known:
            raise ImageError("No face was found in the photographs to compare with.", "Give some that show it large.")
        self.known = np.stack(known)  # [R, D]
        by = "SFace, mean cosine" if net else "proportions and skin colour"
        self.meaning = f"likeness of the face to the photographs ({by})"
        self.low, self.high = (0.0, 0.6) if net else (0.1, 0.85)

    def scores(self, pictures: Sequence[Rgb], prompts: Sequence[str] = ()) -> list[float]:
        return [self._score(self._features(rgb)) for rgb in pictures]

    def _features(self, rgb: Rgb) -> NDArray[np.float64] | None:
        face = largest(rgb, self.kit)
        if face is None or (self.net is None and abs(face.yaw) > FRONTAL):
            return None
        return signature(face, rgb) if self.net is None else _embedding(self.net, face, rgb)

    def _score(self, seen: NDArray[np.float64] | None) -> float:
        if seen is None:
            return 0.0
        if self.net is not None:
            return float((self.known @ seen).mean())
        away = float(np.linalg.norm(seen - np.median(self.known, axis=0)))
        return float(np.exp(-((away / ALIKE) ** 2)))


def largest(rgb: Rgb, kit: FaceKit) -> Face | None:
    faces = [face for face in kit.detect(rgb) if face_height(face) >= SMALLEST]
    return max(faces, key=face_height, default=None)


def faces_in(photos: Sequence[Rgb], kit: FaceKit) -> bool:
    """Whether any photograph shows a face that is large enough."""
    return any(largest(photo, kit) is not None for photo in photos)


def _recogniser(net: Path) -> Any:
    try:
        return cv2.FaceRecognizerSF.create(str(net), "")
    except cv2.error as error:
        raise WeightsError(
            f"{net} is no net that recognises faces.", "Get it again with `vividcover weights pull`."
        ) from error


def _embedding(net: Any, face: Face, rgb: Rgb) -> NDArray[np.float64]:
    points = np.stack([face.landmarks[list(ids), :2].mean(0) for ids in FIVE])  # [5, 2]
    row = np.concatenate([np.array(face.box), points.ravel(), [face.score]]).astype(np.float32)[None]  # [1, 15]
    crop = net.alignCrop(rgb[..., ::-1].copy(), row)  # [112, 112, 3] BGR
    found = np.asarray(net.feature(crop), np.float64).ravel()
    return found / max(float(np.linalg.norm(found)), 1e-12)
