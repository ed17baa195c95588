"""Which face sings, and what a network sees of the still: the crop, the face's mask, the size.

Crop, mask and size follow Sonic's published preprocessing (arXiv:2411.16331 and its code), number by number, with its
roundings (halves to the even number, floors, truncations), because its weights were trained on pictures cut like that.
Its detector learned from WIDER FACE (Yang et al. 2016, arXiv:1511.06523), whose boxes hold forehead, chin and cheeks;
ours gives points, so `wider_box` says what such a box would hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from vividcover.errors import ImageError, ParameterError
from vividcover.portrait.faces import Face, FaceKit, Plane, Rgb
from vividcover.portrait.sonic.config import EXPAND, MASK_AREA, SIDES

Box = tuple[int, int, int, int]  # left, top, right, bottom in px; right and bottom outside
Reach = tuple[float, float, float, float]  # left, top, right, bottom in px
Choice = Literal["largest", "middle"]

SMALLEST_FACE = 48  # px, hairline to chin
MOST_YAW = 42.0  # degrees that a face may be turned away
GOOD_YAW = 30.0  # degrees beyond which mouths become vague (Hallo's guide asks for less)
MOST_ROLL, GOOD_ROLL = 60.0, 30.0  # degrees by which it may lie on its side, for a network; and without a word
SURE = 0.85  # score of a face below which it may stand on its head
BETTER = 0.08  # by which the score then rises when the picture is turned
ABOVE = 0.10  # of the points' height: how far a WIDER FACE box begins above the highest point of the mesh
LEAST_SIDE, MOST_SIDE = 64, 2048  # px, min_resolution
MOST_PIXELS = 2048 * 1024  # px of the network's picture
MOST_ASPECT = 3.0  # longer side / shorter side


@dataclass(frozen=True, slots=True)
class Framing:
    """What a network sees of the still.

    `face` in px of the still; `box` is the crop, in px of the still; `rgb` uint8 [H, W, 3] and `mask` float32 [H, W],
    0..1 where the face is, at the network's size (sides are multiples of 64 px); `notes` for people.
    """

    face: Face
    box: Box
    mask: Plane
    rgb: Rgb
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the network's picture, px."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def own_size(self) -> tuple[int, int]:
        """(width, height) of the crop in the still, made even: what `keep_resolution` gives."""
        left, top, right, bottom = self.box
        return max(2, (right - left) // 2 * 2), max(2, (bottom - top) // 2 * 2)


def frame(
    still: Rgb, kit: FaceKit, *, min_resolution: int = 512, expand: float = EXPAND, choose: Choice = "largest",
    strict: bool = False, crop: bool = True,
) -> Framing:  # fmt: skip
    """Finds the face that sings and cuts it out for the network. `crop=False`: the network gets the whole still.

    `strict` refuses stills with several faces. Raises `ImageError` (no face, several, too small, turned away, a still
    too long for its width) and `ParameterError`.
    """
    if not LEAST_SIDE <= min_resolution <= MOST_SIDE:
        raise ParameterError(f"min_resolution is {min_resolution}.", f"Use {LEAST_SIDE} to {MOST_SIDE} px.")
    if not 0.0 <= expand <= 2.0:
        raise ParameterError(f"expand is {expand}.", "Use 0.0 (the bare face) to 2.0; 0.5 is what the network knows.")
    notes: list[str] = []
    face = singer(still, kit, notes, choose=choose, strict=strict)
    _check_roll(face, notes)
    height, width = still.shape[:2]
    reach = wider_box(face)
    box = crop_box(reach, expand, height, width) if crop else (0, 0, width, height)
    left, top, right, bottom = box
    piece = np.ascontiguousarray(still[top:bottom, left:right])
    size = model_size(right - left, bottom - top, min_resolution)
    mask = face_mask((reach[0] - left, reach[1] - top, reach[2] - left, reach[3] - top), bottom - top, right - left)
    if min_resolution > 2 * min(right - left, bottom - top):
        notes.append(
            f"The face's surroundings are only {right - left}x{bottom - top} px, and are drawn at {size[0]}x{size[1]} "
            "px: the video will look soft."
        )
    return Framing(face, box, _resized(mask, size).astype(np.float32) / 255.0, _resized(piece, size), tuple(notes))


def singer(still: Rgb, kit: FaceKit, notes: list[str], *, choose: Choice = "largest", strict: bool = False) -> Face:
    """The face that sings: of several the largest (or the one in the `middle`), which a note says.

    Raises `ImageError`: no face; several and `strict`; too small; turned away.
    """
    faces = kit.detect(still)
    if not faces:
        raise ImageError(
            "No face was found in the still.",
            "Use a picture that shows one face from the front, well lit, not hidden.",
        )
    face = faces[0]
    if choose == "middle":
        face = min(faces, key=lambda one: abs(one.x + one.w / 2 - still.shape[1] / 2))
    if len(faces) > 1:
        if strict:
            raise ImageError(
                f"{len(faces)} faces were found in the still.", "Use a picture with one face, or cut the others off."
            )
        which = "largest" if choose == "largest" else "one in the middle"
        notes.append(f"{len(faces)} faces in the still: the {which} sings.")
    check(face, notes)
    if face.score < SURE and _stands_on_its_head(still, kit, face):
        raise ImageError("The face in the still stands on its head.", "Turn the picture upright.")
    return face


def check(face: Face, notes: list[str] | None = None) -> None:
    """Raises `ImageError` for a face that is too small or turned away; notes one that is nearly so."""
    if face.h < SMALLEST_FACE:
        raise ImageError(
            f"The face in the still is only {face.h:.0f} px high.",
            f"It must have {SMALLEST_FACE} px: use a larger picture or a closer shot.",
        )
    if abs(face.yaw) > MOST_YAW:
        raise ImageError(
            f"The face in the still is turned away by {abs(face.yaw):.0f}° (a profile view).",
            f"Use a picture turned by at most {MOST_YAW:.0f}°, with both eyes and the whole mouth visible.",
        )
    if notes is not None and abs(face.yaw) > GOOD_YAW:
        notes.append(f"The face is turned by {abs(face.yaw):.0f}°: below {GOOD_YAW:.0f}° its mouth is drawn better.")


def _check_roll(face: Face, notes: list[str]) -> None:
    """A network has hardly seen anybody who lies on the side."""
    if abs(face.roll) > MOST_ROLL:
        raise ImageError(
            f"The face in the still lies on its side (turned by {abs(face.roll):.0f}°).", "Turn the picture upright."
        )
    if abs(face.roll) > GOOD_ROLL:
        notes.append(f"The face is tilted by {abs(face.roll):.0f}°: turn the picture upright if it looks odd.")


def _stands_on_its_head(still: Rgb, kit: FaceKit, face: Face) -> bool:
    """Points are found in a face upside down too, as if it were upright, but with less confidence."""
    reach = round(max(face.w, face.h))
    x, y = round(face.x + face.w / 2), round(face.y + face.h / 2)
    around = still[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
    turned = kit.detect(np.ascontiguousarray(around[::-1, ::-1]))
    return any(other.score > face.score + BETTER for other in turned)


def wider_box(face: Face) -> Reach:
    """The box that a detector trained on WIDER FACE would give this face, px.

    The mesh's points reach from below the hairline to the chin and from ear to ear. Those boxes hold the whole
    forehead, so they begin `ABOVE` higher, and end where the points do. Checked against what RetinaFace and MTCNN print
    in their own documentation (faces from the front: eyes at .36 to .41 of the height, corners of the mouth at .75 to
    .83, eyes .42 to .48 of the width apart, width/height .76 to .79); ours on the sample photos: .39, .76, .45, .81.
    """
    return face.x, face.y - ABOVE * face.h, face.x + face.w, face.y + face.h


def crop_box(reach: Reach, expand: float, height: int, width: int) -> Box:
    """The square around a face that the network was trained on.

    The box grows by `expand` of its size to all sides, as far as the still (`height` x `width`) goes; its shorter side
    is the square's, which slides along the longer one towards the face's middle.
    """
    w, h = reach[2] - reach[0], reach[3] - reach[1]
    x1, y1 = max(reach[0] - expand * w, 0), max(reach[1] - expand * h, 0)
    x2, y2 = min(reach[2] + expand * w, width), min(reach[3] + expand * h, height)
    side, spare = min(x2 - x1, y2 - y1), abs((y2 - y1) - (x2 - x1)) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    to_x, to_y = (reach[0] + reach[2]) / 2 - x, (reach[1] + reach[3]) / 2 - y
    if x2 - x1 < y2 - y1:
        y += float(np.clip(to_y, -spare, spare))
    else:
        x += float(np.clip(to_x, -spare, spare))
    return round(x - side / 2), round(y - side / 2), round(x + side / 2), round(y + side / 2)


def face_mask(reach: Reach, height: int, width: int) -> Rgb:
    """uint8 [height, width]: 255 in the face's box, 1.1 times as wide and high, else 0.

    Middle and half sides are rounded down, what comes of it cut to whole px, as the network was trained.
    """
    wide, high = (reach[2] - reach[0]) * MASK_AREA, (reach[3] - reach[1]) * MASK_AREA
    x, y = (reach[0] + reach[2]) // 2, (reach[1] + reach[3]) // 2
    left, top = max(x - wide // 2, 0), max(y - high // 2, 0)
    right, bottom = min(x + wide // 2, width), min(y + high // 2, height)
    mask = np.zeros((height, width), np.uint8)
    mask[int(top) : int(bottom), int(left) : int(right)] = 255
    return mask


def model_size(width: int, height: int, min_resolution: int) -> tuple[int, int]:
    """(width, height): the shorter side becomes `min_resolution`, then both the nearest multiples of 64 px.

    Raises `ImageError` for shapes and sizes beyond `MOST_ASPECT` and `MOST_PIXELS`: cost and memory grow with them.
    """
    aspect = max(width, height) / min(width, height)
    if aspect > MOST_ASPECT:
        raise ImageError(
            f"The still of {width}x{height} px is {aspect:.1f} times as long as wide.",
            f"Use one of at most {MOST_ASPECT:.0f} to 1, or have the face cut out.",
        )
    scale = min_resolution / min(width, height)
    wide, high = (max(SIDES, round(side * scale / SIDES) * SIDES) for side in (width, height))
    if wide * high > MOST_PIXELS:
        raise ImageError(
            f"The network's picture would have {wide}x{high} px; at most {MOST_PIXELS} are drawn.",
            "Use a smaller min_resolution, or have the face cut out.",
        )
    return wide, high


def _resized(picture: Rgb, size: tuple[int, int]) -> Rgb:
    """Lanczos, as published; untouched where it has that size."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), np.uint8)
