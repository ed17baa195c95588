"""Cutting a person out of a photo at full resolution, hair included, without taking the old background along.

The net's matte is coarse (256 x 256). It only says where the person surely is and surely is not; between the two
lies an unknown band. In the band each pixel is explained as a mix of a foreground and a background colour sampled
nearby (shared-sampling matting, Gastal & Oliveira 2010), then smoothed along the photo's own edges (guided filter,
He et al. 2010). Colours are decontaminated by blur fusion (Forte 2021). All images are float32 RGB in 0..1 (sRGB).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.portrait.faces import Face

F32 = NDArray[Any]  # float32 unless a docstring says otherwise
# The face's contour in the 468-point mesh.
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
        150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MatteNumbers:
    """Lengths are fractions of the face's height."""

    band_in: float = 0.045  # unknown band, inwards from the net's edge
    band_out: float = 0.06  # outwards
    band_out_hair: float = 0.07  # outwards around the head, where strands fly
    band_out_plain: float = 0.14  # the same before a plain backdrop, where colour alone tells them apart
    tail: float = 0.09  # parts of the net's matte thinner than twice this are taken for mistakes
    prior: float = 0.03  # weight of the net's word before a textured background (squared sRGB per squared alpha)
    prior_plain: float = 0.003  # and before a plain one
    plain_std: float = 0.022  # a backdrop whose residual is below this is "plain" (sRGB 0..1)
    envelope: float = 0.014  # nothing may stick out of the net's edge by much more than this
    envelope_plain: float = 0.05  # the same before a plain backdrop
    guided_radius: float = 0.022
    guided_eps: float = 2e-5
    cloth_smooth: float = 0.025  # clothes have smooth outlines: bumps smaller than this are errors
    sure: float = 0.90  # of the net's matte


@dataclass(frozen=True, slots=True)
class Cutout:
    """`rgb` float32 [H,W,3] decontaminated foreground, `alpha` float32 [H,W]; quality 0..1; `plain` backdrop or not."""

    rgb: F32
    alpha: F32
    quality: float
    plain: bool
    method: str


def face_height(face: Face) -> float:
    """Forehead to chin, px. Robust to roll: the length of the mesh's axis, not the box."""
    mesh = face.landmarks
    return float(np.hypot(*(mesh[10, :2] - mesh[152, :2]))) + 1e-6


def cut_out(
    rgb8: NDArray[np.uint8],
    coarse: F32,
    face: Face,
    numbers: MatteNumbers | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> Cutout:
    """The person of `face` out of a photo uint8 [H,W,3], given the net's matte float32 [H,W]. `check`: a safe point."""
    n = numbers or MatteNumbers()
    image = rgb8.astype(np.float32) / 255.0
    size = face_height(face)
    coarse = keep_person(coarse, face, round(n.tail * size))
    sure_fg, sure_bg = trimap(coarse, face, size, n, n.band_out_plain)
    plain = backdrop_spread(image, sure_bg) < n.plain_std
    if not plain:
        sure_fg, sure_bg = trimap(coarse, face, size, n, n.band_out_hair)
    ys = np.arange(image.shape[0], dtype=np.float32)[:, None]
    cloth = np.clip((ys - float(face.landmarks[152, 1])) / (0.5 * size), 0, 1)  # clothes: colours often recur behind
    weight = np.broadcast_to(n.prior_plain + (n.prior - n.prior_plain) * (cloth if plain else 1.0), coarse.shape)
    prior = coarse if plain else guided(image, coarse, max(2, round(n.guided_radius * size * 1.5)), 1e-4)
    check()
    first, _ = sample_matte(image, prior, sure_fg, sure_bg, size, weight, plain)
    check()
    radius = max(2, round(n.guided_radius * size))
    smooth = guided(image, first, radius, n.guided_eps)
    fg2 = sure_fg | (cv2.erode(smooth, np.ones((3, 3))) > 0.985)
    bg2 = sure_bg | (cv2.dilate(smooth, np.ones((3, 3))) < 0.015)
    check()
    second, doubt = sample_matte(image, smooth, fg2, bg2, size, weight, plain)
    check()
    refined = guided(image, second, max(2, radius // 2), n.guided_eps) * doubt + second * (1 - doubt)
    candidates = {
        "sampled": refined,
        "guided": guided(image, coarse, max(2, radius), 1e-4),
    }
    scored = {}
    for name, matte in candidates.items():
        check()
        alpha = tidy(matte, sure_fg, sure_bg, face)
        alpha = np.minimum(alpha, envelope(coarse, (n.envelope_plain if plain else n.envelope) * size))
        alpha = smooth_cloth(image, alpha, face, size, n.cloth_smooth)
        colours, residual = decontaminate(image, alpha, size)
        scored[name] = (score(alpha, residual, size), alpha, colours)
    best = max(scored, key=lambda k: (scored[k][0], k))
    quality, alpha, colours = scored[best]
    return Cutout(colours, alpha, quality, bool(plain), best)


def keep_person(matte: F32, face: Face, tail: int) -> F32:
    """Drops parts of the matte that do not hang together with the face (other people, islands, thin tails)."""
    solid = (matte > 0.7).astype(np.uint8)
    shrink = max(1, tail // 8)  # the opening runs on a smaller picture: it is about big shapes
    small = cv2.resize(solid, (solid.shape[1] // shrink, solid.shape[0] // shrink), interpolation=cv2.INTER_AREA)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * (tail // shrink) + 1,) * 2)
    rim = disk.shape[0]
    small = cv2.copyMakeBorder(small, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    small = cv2.morphologyEx(small, cv2.MORPH_OPEN, disk)[rim:-rim, rim:-rim]
    solid = np.asarray(cv2.resize(small, (matte.shape[1], matte.shape[0]), interpolation=cv2.INTER_LINEAR), np.uint8)
    cv2.fillConvexPoly(solid, np.ascontiguousarray(face.landmarks[list(OVAL), :2]).astype(np.int32), 1)
    _, labels = cv2.connectedComponents(solid)
    centre = face.landmarks[:, :2].mean(0)
    y = int(np.clip(centre[1], 0, matte.shape[0] - 1))
    x = int(np.clip(centre[0], 0, matte.shape[1] - 1))
    mine = (labels == labels[y, x]).astype(np.uint8)
    reach = cv2.dilate(mine, np.ones((5, 5), np.uint8), iterations=max(2, tail // 5))
    return np.where(reach > 0, matte, 0).astype(np.float32)


def trimap(
    coarse: F32, face: Face, size: float, n: MatteNumbers, band_hair: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(surely person, surely not), bool [H,W]. The face's own oval is always person."""
    solid = (coarse > 0.5).astype(np.uint8)
    padded = cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    ys = np.arange(coarse.shape[0], dtype=np.float32)[:, None]
    chin = float(face.landmarks[152, 1])
    hair = np.clip((chin + 0.75 * size - ys) / (0.5 * size), 0, 1)  # 1 at the head, 0 at the shoulders
    out = (n.band_out + (band_hair - n.band_out) * hair) * size
    fg = (inside > n.band_in * size * (0.7 + 0.5 * hair)) & (coarse > n.sure)
    bg = (outside > out) & (coarse < 0.3)
    oval = np.zeros(coarse.shape, np.uint8)
    points = face.landmarks[list(OVAL), :2]
    centre = points.mean(0)
    cv2.fillConvexPoly(oval, ((points - centre) * 0.9 + centre).astype(np.int32), 1)
    return fg | (oval > 0), bg & (oval == 0)


def envelope(coarse: F32, reach: float) -> F32:
    """1 inside the net's outline, falling to 0 within about two `reach` (px) outside it. float32 [H,W]."""
    side = 2 * max(1, round(reach)) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    grown = cv2.dilate((coarse > 0.5).astype(np.float32), disk)
    return np.asarray(np.clip(cv2.GaussianBlur(grown, (0, 0), max(0.8, reach * 0.8)) * 1.15, 0, 1))


def smooth_cloth(image: F32, alpha: F32, face: Face, size: float, reach: float) -> F32:
    """Below the chin, where the colour is not the hair's, the outline is smoothed: cloth has no strands."""
    points = face.landmarks
    left, right = (int(np.clip(points[i, 0], 0, alpha.shape[1] - 1)) for i in (234, 454))
    brow, chin = float(points[10, 1]), float(points[152, 1])
    top = int(max(0.0, brow - 0.45 * size))
    above = np.zeros(alpha.shape, bool)
    above[top : max(top + 1, int(brow - 0.06 * size)), min(left, right) : max(left, right) + 1] = True
    above &= alpha > 0.98
    ys = np.arange(alpha.shape[0], dtype=np.float32)[:, None]
    cloth: F32 = np.broadcast_to(np.clip((ys - chin - 0.15 * size) / (0.2 * size), 0, 1), alpha.shape)
    if above.sum() > 200:
        hair = np.median(image[above], axis=0)
        nearby = pooled(image, alpha > 0.98, 0.06 * size)
        cloth = cloth * np.clip((np.linalg.norm(nearby - hair, axis=2) - 0.12) / 0.15, 0, 1)
    rim = max(2, round(4 * reach * size))
    solid = cv2.copyMakeBorder((alpha > 0.5).astype(np.float32), rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    even = cv2.GaussianBlur(solid, (0, 0), reach * size)[rim:-rim, rim:-rim]
    outline = np.clip((even - 0.5) * (0.9 * reach * size) + 0.5, 0, 1)  # an edge of about three px
    weight = cv2.GaussianBlur(np.ascontiguousarray(cloth, np.float32), (0, 0), max(1.0, 0.03 * size))
    return np.asarray(alpha * (1 - weight) + outline * weight, np.float32)


def pooled(image: F32, mask: NDArray[np.bool_], sigma: float) -> F32:
    """Mean colour of the masked pixels around each pixel (normalised convolution), float32 [H,W,3]."""
    step = max(1, int(sigma / 4))
    weight = mask.astype(np.float32)
    shape = (max(1, image.shape[1] // step), max(1, image.shape[0] // step))
    small = cv2.resize(image * weight[..., None], shape, interpolation=cv2.INTER_AREA)
    small_w = cv2.resize(weight, shape, interpolation=cv2.INTER_AREA)
    num: F32 = np.zeros_like(small)
    den: F32 = np.zeros_like(small_w)
    for factor, share in ((1, 1.0), (4, 1e-3), (16, 1e-6)):  # far pixels only count where none are near
        coarse = (max(1, shape[0] // factor), max(1, shape[1] // factor))
        for target, source in ((num, small), (den, small_w)):
            tiny = cv2.resize(source, coarse, interpolation=cv2.INTER_AREA) if factor > 1 else source
            blurred = cv2.GaussianBlur(tiny, (0, 0), sigma / step)
            wide = cv2.resize(blurred, shape, interpolation=cv2.INTER_LINEAR) if factor > 1 else blurred
            target += np.float32(share) * np.asarray(wide, np.float32)
    filled = num / np.maximum(den, 1e-9)[..., None]
    return cv2.resize(filled, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def backdrop_spread(image: F32, sure_bg: NDArray[np.bool_]) -> float:
    """RMS difference between the known background and its own smooth version: small for a plain backdrop."""
    if sure_bg.sum() < 500:
        return 1.0
    model = pooled(image, sure_bg, max(image.shape[:2]) / 24)
    return float(np.sqrt(np.mean((image[sure_bg] - model[sure_bg]) ** 2)))


def nearest_colours(image: F32, mask: NDArray[np.bool_]) -> F32:
    """Colour of the nearest masked pixel, float32 [H,W,3]."""
    _, labels = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros((int(labels.max()) + 1, 3), np.float32)
    table[labels[mask]] = image[mask]
    return np.asarray(table[labels])


def sample_matte(
    image: F32, prior: F32, fg: NDArray[np.bool_], bg: NDArray[np.bool_], size: float, weight: F32, plain: bool
) -> tuple[F32, F32]:
    """(alpha, doubt) float32 [H,W]: the best mix of sampled colours for every pixel that is neither fg nor bg."""
    soft = cv2.bilateralFilter(image, 5, 0.06, 2.0)
    rows, cols = np.nonzero(~fg & ~bg)
    alpha = fg.astype(np.float32)
    doubt = np.zeros_like(alpha)
    if rows.size == 0 or not fg.any() or not bg.any():
        return prior, np.ones_like(prior)
    shift = max(2, round(0.06 * size))
    n_like = 0.075 if plain else 0.055  # sRGB distance
    near_f, near_b = nearest_colours(soft, fg), nearest_colours(soft, bg)
    height, width = prior.shape

    def shifted(field: F32, dy: int, dx: int) -> F32:
        return field[np.clip(rows + dy, 0, height - 1), np.clip(cols + dx, 0, width - 1)]

    fronts = [pooled(soft, fg, s * size)[rows, cols] for s in (0.03, 0.09, 0.25)]
    fronts += [shifted(near_f, dy, dx) for dy, dx in ((0, 0), (shift, 0), (-shift, 0), (0, shift), (0, -shift))]
    backs = [pooled(soft, bg, s * size)[rows, cols] for s in (0.04, 0.15)]
    if not plain:
        backs += [shifted(near_b, dy, dx) for dy, dx in ((0, 0), (shift, 0), (-shift, 0))]
    here, guess, pull = image[rows, cols], prior[rows, cols], weight[rows, cols]
    best = np.full(rows.size, np.inf, np.float32)
    found, trust = guess.copy(), np.zeros(rows.size, np.float32)
    for front in fronts:
        for back in backs:
            line = front - back
            length = np.einsum("nc,nc->n", line, line) + 1e-4
            offset = here - back
            mix = np.clip(np.einsum("nc,nc->n", offset, line) / length, 0, 1)
            offset = offset - mix[:, None] * line
            residual = np.einsum("nc,nc->n", offset, offset)
            cost = residual + pull * (mix - guess) ** 2 + 2e-4 / (length + 0.01)
            better = cost < best
            best[better], found[better], trust[better] = cost[better], mix[better], length[better]
    same = np.clip(1 - np.linalg.norm(here - backs[0], axis=1) / n_like, 0, 1)  # looks like the background beside it
    unlike = np.clip((np.linalg.norm(fronts[1] - backs[0], axis=1) - 0.10) / 0.10, 0, 1)  # and the person does not
    found = found * (1 - same * unlike)
    certain = np.clip(trust / 0.06, 0, 1) * np.exp(-best / 0.01)
    doubt[rows, cols] = 1 - 0.75 * certain
    blend = np.clip(trust / 0.01, 0, 1)
    alpha[rows, cols] = blend * found + (1 - blend) * guess  # like colours on both sides: keep the net's word
    return alpha, doubt


def guided(image: F32, target: F32, radius: int, eps: float) -> F32:
    """Colour guided filter (He, Sun, Tang 2010): `target` made to follow the edges of `image`. float32 [H,W]."""
    box = (2 * radius + 1, 2 * radius + 1)

    def mean(x: F32) -> F32:
        return cv2.blur(x, box, borderType=cv2.BORDER_REFLECT)

    r, g, b = (np.ascontiguousarray(image[..., i]) for i in range(3))
    mr, mg, mb, mp = mean(r), mean(g), mean(b), mean(target)
    rr, rg, rb = mean(r * r) - mr * mr + eps, mean(r * g) - mr * mg, mean(r * b) - mr * mb
    gg, gb, bb = mean(g * g) - mg * mg + eps, mean(g * b) - mg * mb, mean(b * b) - mb * mb + eps
    pr, pg, pb = mean(r * target) - mr * mp, mean(g * target) - mg * mp, mean(b * target) - mb * mp
    i00, i01, i02 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    i11, i12, i22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    det = np.maximum(rr * i00 + rg * i01 + rb * i02, 1e-14)
    ar = (i00 * pr + i01 * pg + i02 * pb) / det
    ag = (i01 * pr + i11 * pg + i12 * pb) / det
    ab = (i02 * pr + i12 * pg + i22 * pb) / det
    offset = mp - ar * mr - ag * mg - ab * mb
    return np.asarray(np.clip(mean(ar) * r + mean(ag) * g + mean(ab) * b + mean(offset), 0, 1))


def tidy(matte: F32, fg: NDArray[np.bool_], bg: NDArray[np.bool_], face: Face) -> F32:
    """Stretches the ends, holds the sure parts, drops islands and fills pinholes."""
    alpha = np.clip((matte - 0.06) / 0.88, 0, 1).astype(np.float32)
    alpha[fg] = 1.0
    alpha[bg] = 0.0
    solid = (alpha > 0.35).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
    centre = face.landmarks[:, :2].mean(0).astype(int)
    mine = labels[min(centre[1], alpha.shape[0] - 1), min(centre[0], alpha.shape[1] - 1)]
    near = cv2.dilate((labels == mine).astype(np.uint8), np.ones((9, 9), np.uint8), iterations=2)
    alpha *= cv2.GaussianBlur(near.astype(np.float32), (0, 0), 2.0)
    holes, hole_labels, hole_stats, _ = cv2.connectedComponentsWithStats(1 - solid)
    limit = 0.0004 * alpha.size
    for i in range(1, holes):
        if hole_stats[i, cv2.CC_STAT_AREA] < limit:
            alpha[hole_labels == i] = np.maximum(alpha[hole_labels == i], 0.95)
    del stats
    return alpha


def decontaminate(image: F32, alpha: F32, size: float) -> tuple[F32, F32]:
    """(foreground colours [H,W,3], residual of the mix [H,W]) by two passes of blur fusion (Forte 2021)."""
    front, back = image, image
    a = alpha[..., None]
    for radius in (round(0.20 * size) | 1, max(3, round(0.02 * size) | 1)):
        box = (radius, radius)
        weight = cv2.blur(alpha, box)[..., None]
        blurred_f = cv2.blur(front * a, box) / (weight + 1e-5)
        blurred_b = cv2.blur(back * (1 - a), box) / (1 - weight + 1e-5)
        rest = image - a * blurred_f - (1 - a) * blurred_b
        front = np.clip(blurred_f + a * rest, 0, 1)
        back = np.clip(blurred_b + (1 - a) * rest, 0, 1)
    inner = pooled(image, alpha > 0.98, 0.05 * size)  # thin strands: no colour of their own to trust
    trust = np.clip((a - 0.15) / 0.6, 0, 1)
    colours = (front * trust + np.minimum(front, inner) * (1 - trust)).astype(np.float32)
    residual = np.abs(image - a * front - (1 - a) * back).mean(2)
    return colours, residual


def score(alpha: F32, residual: F32, size: float) -> float:
    """0..1: how well the mix explains the photo in the band, and how decided the matte is."""
    band = (alpha > 0.02) & (alpha < 0.98)
    edge = max(1.0, float((np.abs(cv2.Laplacian((alpha > 0.5).astype(np.float32), cv2.CV_32F)) > 0).sum()))
    if not band.any():
        return 0.5
    misfit = float(residual[band].mean())
    width = float((4 * alpha * (1 - alpha))[band].sum()) / edge / size  # mean softness, in face heights
    return float(np.exp(-misfit / 0.03) * np.exp(-width / 0.06))
