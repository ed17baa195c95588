"""Training: checks, ranks and cuts out a person's photos (subject), or learns palette and texture (style)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ConsentError, ImageError, ParameterError
from vividcover.image.classic import modelfile, style
from vividcover.image.classic.compose import side_cut
from vividcover.image.classic.cutout import OVAL, Cutout, cut_out, face_height
from vividcover.image.classic.light import Person, face_mask, normals, own_light
from vividcover.image.classic.scene_tools import to_linear
from vividcover.image.photos import Photo, PhotoSet, Problem, listed, read_photos
from vividcover.portrait.faces import Face, FaceKit
from vividcover.progress import Part
from vividcover.workspace import Reporter, Silent

KEEP = 8  # cut-outs in a model
TRY = 10  # best photos that are cut out to find them
WORTH = 0.7  # of the best photo's score: below this a photo is cut out only where fewer than two others are left
ADVISED = (10, 20)  # photos, as the seed's trainer advises
LICENCE = (
    "Made from the photos that the consent statement is about, and holds parts of them; use it only as far as that "
    "statement and the rights of whoever took the photos go."
)
SMALLEST_FACE = 90  # px, forehead to chin
GOOD_FACE = 380  # px
STABLE = (10, 152, 234, 454, 33, 133, 362, 263, 6, 1, 98, 327, 70, 300, 172, 397)  # points that speech hardly moves


@dataclass(slots=True)
class Candidate:
    """A photo with its face and what was measured on it (each 0..1, higher is better)."""

    photo: Photo
    face: Face
    marks: dict[str, float]
    note: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A face in a photo, what tells the person apart [n], and what speaks for the photo."""

    face: Face
    signature: NDArray[np.float64]
    marks: dict[str, float]


def train(
    photos: Path,
    out: Path,
    *,
    kit: FaceKit,
    name: str,
    trigger_word: str = "TOK",
    kind: Literal["subject", "style"] = "subject",
    consent: str = "",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Photos (zip, folder or one file) → `out`, a tar; returns the report (verdict for every photo).

    Raises `ConsentError` (a subject without a consent statement), `ImageError`, `ArchiveError`, `ParameterError`.
    """
    reporter = reporter or Silent()
    if kind not in ("subject", "style"):
        raise ParameterError(f"Unknown type {kind!r}.", "Use subject or style.")
    if kind == "subject" and not consent.strip():
        raise ConsentError(
            "Training on photos of a person needs that person's consent.",
            'State it: --consent "I am the person in the photos".',
        )
    with tempfile.TemporaryDirectory(prefix="vividcover-photos-") as temporary:
        found = read_photos(photos, Path(temporary), reporter=Part(reporter, 0.0, 0.25))
        if kind == "style":
            info, files = _train_style(found, reporter)
        else:
            info, files = _train_subject(found, kit, reporter)
    info |= {
        "name": name,
        "trigger_word": trigger_word,
        "type": kind,
        "consent": consent,
        "licence": LICENCE,
        "captions": {p.name: p.caption for p in found.photos if p.caption},
    }
    modelfile.write_model(out, info, files)
    for line in info["report"]["advice"]:
        reporter.note(line)
    reporter.progress(1.0, "done")
    report: dict[str, Any] = info["report"]
    return report


def _train_style(found: PhotoSet, reporter: Reporter) -> tuple[dict[str, Any], dict[str, bytes]]:
    learned = style.learn([photo.path for photo in found.photos], reporter)
    report = {
        "photos": len(found.photos),
        "verdicts": [{"photo": p.name, "used": True, "notes": list(p.notes)} for p in found.photos]
        + [{"photo": p.name, "used": False, "why": p.why} for p in found.problems],
        "advice": _advice(len(found.photos)),
    }
    return {"report": report, "style": learned.info()}, learned.files()


def _train_subject(found: PhotoSet, kit: FaceKit, reporter: Reporter) -> tuple[dict[str, Any], dict[str, bytes]]:
    candidates, problems = find_person(found, kit, reporter)
    for candidate in candidates:
        candidate.score = total(candidate.marks)
    candidates.sort(key=lambda c: (-c.score, c.photo.name))
    made: list[tuple[float, Candidate, bytes, dict[str, Any]]] = []
    hopeful = [c for i, c in enumerate(candidates[:TRY]) if i < 2 or c.score > WORTH * candidates[0].score]
    for i, candidate in enumerate(hopeful):
        reporter.progress(0.5 + 0.45 * i / len(hopeful), f"cutting out {candidate.photo.name}")
        rgb = candidate.photo.rgb()
        cut = cut_out(rgb, kit.matte(rgb), candidate.face, check=reporter.check)
        reporter.check()
        side = side_cut(cut.alpha, face_height(candidate.face))
        candidate.marks |= {"matte": cut.quality * (1.0 if cut.plain else 0.85), "whole": float(np.exp(-0.5 * side))}
        rgba = np.clip(np.dstack([cut.rgb, cut.alpha]) * 255 + 0.5, 0, 255).astype(np.uint8)
        made.append((total(candidate.marks), candidate, modelfile.png_bytes(rgba), _facts(candidate, cut, side)))
    made.sort(key=lambda m: (-m[0], m[1].photo.name))
    files: dict[str, bytes] = {}
    entries = []
    for i, (value, candidate, picture, facts) in enumerate(made[:KEEP]):
        files[f"cutouts/{i}.png"] = picture
        files[f"landmarks/{i}.npy"] = modelfile.npy_bytes(candidate.face.landmarks)
        entries.append(
            {"cutout": f"cutouts/{i}.png", "landmarks": f"landmarks/{i}.npy", "score": round(value, 4), **facts}
        )
    report = _report(found, candidates, problems, [m[1] for m in made[:KEEP]])
    return {"report": report, "cutouts": entries}, files


def find_person(found: PhotoSet, kit: FaceKit, reporter: Reporter) -> tuple[list[Candidate], list[Problem]]:
    """The person's face in every photo; where a photo shows several people, the face that is most like the others."""
    faces: list[list[Seen]] = []
    for i, photo in enumerate(found.photos):
        reporter.progress(0.25 + 0.25 * i / len(found.photos), f"looking at {photo.name}")
        rgb = photo.rgb()
        large = [f for f in kit.detect(rgb) if face_height(f) >= SMALLEST_FACE * 0.5]
        faces.append([Seen(f, signature(f, rgb), marks_of(rgb, f)) for f in large])
    problems = [Problem(p.name, "no face was found") for p, f in zip(found.photos, faces) if not f]
    alone = [f[0].signature for f in faces if len(f) == 1]
    everyone = [f[0].signature for f in faces if f]
    if not everyone:
        raise ImageError(
            f"No face was found in {'the photo' if len(faces) == 1 else f'any of the {len(faces)} photos'}: "
            + listed(problems + found.problems),
            "Give photos in which the person's face is large, lit and turned to the camera.",
        )
    usual = np.median(np.stack(alone or everyone), axis=0)
    candidates = []
    for photo, seen in zip(found.photos, faces):
        if not seen:
            continue
        note = ""
        best = seen[0]
        if len(seen) > 1:
            best = min(seen, key=lambda s: float(np.linalg.norm(s.signature - usual)))
            middle = [float(s.face.landmarks[:, 0].mean()) for s in seen]
            place = "left" if float(best.face.landmarks[:, 0].mean()) < float(np.mean(middle)) else "right"
            basis = "most like the face in the other photos" if alone else "the largest"
            note = f"{len(seen)} faces: the one on the {place} was taken, {basis}"
            reporter.note(f"{photo.name}: {note}.")
        face = best.face
        if face_height(face) < SMALLEST_FACE:
            problems.append(
                Problem(photo.name, f"the face is too small ({face_height(face):.0f} px high, {SMALLEST_FACE} needed)")
            )
            continue
        candidates.append(Candidate(photo, face, best.marks, note))
    if not candidates:
        raise ImageError("No photo has a face that is large enough: " + listed(problems), "Give closer photos.")
    return candidates, problems


def signature(face: Face, rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Shape of the bones and colour of the skin, independent of pose and size; [n]."""
    p = face.landmarks.astype(np.float64)
    across = p[454] - p[234]
    across /= np.linalg.norm(across)
    down = p[152] - p[10]
    down -= across * (down @ across)
    down /= np.linalg.norm(down)
    axes = np.stack([across, down, np.cross(across, down)])
    shape = ((p[list(STABLE)] - p[6]) @ axes.T) / (np.linalg.norm(p[10] - p[152]) + 1e-9)
    cheeks = p[[50, 280, 151], :2].astype(int)
    patches = [rgb[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].reshape(-1, 3) for x, y in cheeks]
    pixels = np.concatenate(patches) if any(len(q) for q in patches) else np.zeros((1, 3), np.uint8)
    lab = cv2.cvtColor(pixels[None].astype(np.uint8), cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(0)
    return np.concatenate([shape.ravel() * 4, lab / 90.0])


def marks_of(rgb: NDArray[Any], face: Face) -> dict[str, float]:
    """What speaks for a photo, each 0..1."""
    p, fh = face.landmarks, face_height(face)
    h, w = rgb.shape[:2]
    x0, y0 = np.clip(p[:, :2].min(0), 0, [w - 2, h - 2]).astype(int)
    x1, y1 = np.clip(p[:, :2].max(0), [x0 + 2, y0 + 2], [w, h]).astype(int)
    grey = cv2.cvtColor(rgb[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    level = cv2.resize(grey, (192, max(16, round(192 * grey.shape[0] / grey.shape[1]))), interpolation=cv2.INTER_AREA)
    blur = float(cv2.Laplacian(level, cv2.CV_64F).var())
    mean, clipped = float(grey.mean()) / 255, float(((grey < 4) | (grey > 251)).mean())
    mouth = float(np.linalg.norm(p[13] - p[14])) / fh
    lids = [
        float(np.linalg.norm(p[a, :2] - p[b, :2]) / (np.linalg.norm(p[c, :2] - p[d, :2]) + 1e-6))
        for a, b, c, d in ((159, 145, 33, 133), (386, 374, 362, 263))
    ]
    oval = p[list(OVAL), :2]
    inside = float(((oval[:, 0] > 2) & (oval[:, 0] < w - 3) & (oval[:, 1] > 2) & (oval[:, 1] < h - 3)).mean())
    return {
        "size": float(np.clip(fh / GOOD_FACE, 0, 1) ** 0.5),
        "sharp": float(np.clip(blur / 110.0, 0.02, 1) ** 0.4),
        "frontal": float(np.exp(-((face.yaw / 28) ** 2) - (face.pitch / 26) ** 2 - (face.roll / 35) ** 2)),
        "exposure": float(np.exp(-(((mean - 0.52) / 0.28) ** 2)) * np.exp(-clipped / 0.15)),
        "mouth": float(np.exp(-((mouth / 0.06) ** 2))),
        "eyes": float(np.clip((float(np.mean(lids)) - 0.08) / 0.14, 0.05, 1)),
        "inside": inside**2,
        "room": float(np.clip((p[10, 1] / fh) / 0.32, 0.1, 1)),
        "score": float(np.clip(face.score, 0, 1)),
    }


def total(marks: dict[str, float]) -> float:
    """Weighted geometric mean of the marks: one bad mark is enough to lose."""
    weights = {"frontal": 1.6, "sharp": 1.2, "matte": 1.3, "whole": 1.0, "size": 1.0, "mouth": 0.8, "inside": 1.5}
    logs = [weights.get(k, 0.6) * np.log(max(v, 1e-3)) for k, v in marks.items()]
    return float(np.exp(sum(logs) / sum(weights.get(k, 0.6) for k in marks)))


def _facts(candidate: Candidate, cut: Cutout, side: float) -> dict[str, Any]:
    """What generation needs to choose a photo: JSON."""
    face = candidate.face
    person = Person(to_linear(cut.rgb), cut.alpha, face.landmarks, face_height(face))
    weights, skin, level = own_light(person, normals(person))
    mask = face_mask(face.landmarks, cut.alpha.shape, 1.0, 0.02)
    rows = np.flatnonzero((cut.alpha > 0.5).any(1))
    return {
        "photo": candidate.photo.name,
        "size": [int(cut.alpha.shape[1]), int(cut.alpha.shape[0])],
        "face_height": round(face_height(face), 2),
        "yaw": round(face.yaw, 2),
        "pitch": round(face.pitch, 2),
        "head_top": int(rows[0]) if rows.size else 0,
        "side_cut": round(side, 4),
        "matte": round(cut.quality, 4),
        "matte_method": cut.method,
        "plain_backdrop": cut.plain,
        "covered": round(float((cut.alpha * mask).sum() / mask.sum()), 4),
        "light_from_x": round(float(weights[1]), 4),
        "light_from_y": round(float(weights[2]), 4),
        "level": round(level, 4),
        "skin": [round(float(v), 4) for v in skin],
        "reaches_bottom": bool((cut.alpha[-3:] > 0.5).any()),
    }


def _report(
    found: PhotoSet, candidates: list[Candidate], problems: list[Problem], kept: list[Candidate]
) -> dict[str, Any]:
    names = {c.photo.name for c in kept}
    verdicts: list[dict[str, Any]] = [
        {
            "photo": c.photo.name,
            "used": c.photo.name in names,
            "score": round(total(c.marks), 3),
            "marks": {k: round(v, 3) for k, v in c.marks.items()},
            "notes": [*c.photo.notes, *([c.note] if c.note else [])],
            **(
                {}
                if c.photo.name in names
                else {"why": f"other photos are better (weakest: {min(c.marks, key=lambda k: c.marks[k])})"}
            ),
        }
        for c in candidates
    ]
    verdicts += [{"photo": p.name, "used": False, "why": p.why} for p in problems + found.problems]
    return {
        "photos": len(found.photos) + len(found.problems),
        "usable": len(candidates),
        "kept": len(kept),
        "verdicts": verdicts,
        "advice": _advice(len(candidates), candidates),
    }


def _advice(count: int, candidates: list[Candidate] | None = None) -> list[str]:
    lines = []
    if count == 1:
        lines.append("Only one photo can be used: every still will show this pose. 10 to 20 varied photos are advised.")
    elif count < ADVISED[0]:
        lines.append(f"{count} usable photos; 10 to 20 are advised, in different poses, clothes and light.")
    if candidates and len(candidates) > 2:
        yaws = [c.face.yaw for c in candidates]
        if max(yaws) - min(yaws) < 8:
            lines.append("All photos show the same view of the face; add some turned a little to either side.")
        if not any(c.marks.get("size", 0) > 0.85 for c in candidates):
            lines.append("The faces are small; photos from closer by would give sharper stills.")
    return lines
