"""From the parts of a layer's change to one pair: plain pairs, Kronecker products (LoKr), Hadamard products (LoHa).

LoKr is W = w1 ⊗ w2. With w1 = L1 R1 and w2 = L2 R2 that is (L1 ⊗ L2)(R1 ⊗ R2): a pair, exact, of rank r1 · r2.
LoHa is (A1 B1) ∘ (A2 B2): row by row the products of A's columns, column by column those of B's rows: rank r1 · r2.
Where that rank is above `MOST_RANK`, the best approximation is taken, of the rank that loses `SMALL_LOSS` or of
`MOST_RANK`, and what it loses is said. The singular values of w1 ⊗ w2 are all products of those of w1 and w2, so this
needs only the two small decompositions.

Sources: S.-Y. Yeh et al., "Navigating Text-To-Image Customization" (LyCORIS), ICLR 2024; FedPara (ICLR 2022) for LoHa.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vividcover.image.flux.formats.pairs import Pair
from vividcover.image.flux.formats.parts import DOWN, UP

if TYPE_CHECKING:
    from torch import Tensor

MOST_RANK = 256  # of a pair that a product becomes
SMALL_LOSS = 0.01  # relative error (Frobenius) at which an approximation is good enough
OVERSAMPLING = 16  # further singular values that the randomised decomposition looks for
ROUNDS = 6  # of its power iteration
Factors = tuple["Tensor", "Tensor"]  # [rows, r], [r, columns]


def combine(parts: dict[str, Tensor], alpha: float | None, most_rank: int = MOST_RANK) -> tuple[Pair, float]:
    """The pair, and the relative error (Frobenius) that it was made with: 0 where it is exact.

    `alpha` None: the scale is 1, as every reader takes it.
    """
    if DOWN in parts:
        a, b = parts[DOWN], parts[UP]
        return Pair(a, b, float(a.shape[0]) if alpha is None else alpha), 0.0
    pair, loss = (_hadamard if "h1_a" in parts else _kronecker)(parts, alpha, most_rank)
    kind = next(tensor.dtype for role, tensor in parts.items() if role[0] in "wh")
    return (Pair(pair.a.to(kind), pair.b.to(kind), pair.alpha) if loss else pair), loss


def _hadamard(parts: dict[str, Tensor], alpha: float | None, most_rank: int) -> tuple[Pair, float]:
    left1, right1, left2, right2 = (parts[name].float() for name in ("h1_a", "h1_b", "h2_a", "h2_b"))
    scale = 1.0 if alpha is None else alpha / right1.shape[0]
    b = (left1[:, :, None] * left2[:, None, :]).flatten(1)  # [out, r1·r2]
    a = (right1[:, None, :] * right2[None, :, :]).flatten(0, 1)  # [r1·r2, in]
    return _reduced(b, a, scale, most_rank)


def _kronecker(parts: dict[str, Tensor], alpha: float | None, most_rank: int) -> tuple[Pair, float]:
    first, second = _factors(parts, "w1"), _factors(parts, "w2")
    low = next((parts[name] for name in ("w2_b", "w1_b") if name in parts), None)
    scale = 1.0 if alpha is None or low is None else alpha / low.shape[0]  # of two whole matrices the alpha is ignored
    if first[1].shape[0] * second[1].shape[0] <= most_rank:
        return _pair(_kron(first[0], second[0]), _kron(first[1], second[1]), scale), 0.0
    return _leading(first, second, scale, most_rank)


def _factors(parts: dict[str, Tensor], name: str) -> Factors:
    """A matrix as a product; one that is given whole, times the identity on its shorter side."""
    import torch

    if f"{name}_a" in parts:
        return parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    whole = parts[name].float()
    rows, columns = whole.shape
    return (torch.eye(rows), whole) if rows <= columns else (whole, torch.eye(columns))


def _kron(x: Tensor, y: Tensor) -> Tensor:
    """[a, b] ⊗ [c, d] → [a·c, b·d]."""
    return (x[:, None, :, None] * y[None, :, None, :]).reshape(x.shape[0] * y.shape[0], -1)


def _leading(first: Factors, second: Factors, scale: float, rank: int) -> tuple[Pair, float]:
    """The best pair of this rank for w1 ⊗ w2, from the decompositions of both."""
    import torch

    (u1, s1, v1), norm1 = _decomposed(*first, rank)
    (u2, s2, v2), norm2 = _decomposed(*second, rank)
    products = (s1[:, None] * s2[None, :]).flatten()
    chosen = torch.argsort(products, descending=True, stable=True)[:rank]
    kept, lost = _enough(products[chosen], norm1 * norm2)
    chosen = chosen[:kept]
    i, j = chosen // len(s2), chosen % len(s2)
    root = products[chosen].sqrt()
    b = (u1[:, None, i] * u2[None, :, j]).flatten(0, 1) * root
    a = (v1[:, None, i] * v2[None, :, j]).flatten(0, 1).T * root[:, None]
    return _pair(b, a, scale), lost


def _reduced(b: Tensor, a: Tensor, scale: float, most_rank: int) -> tuple[Pair, float]:
    if a.shape[0] <= most_rank:
        return _pair(b, a, scale), 0.0
    (u, s, v), norm = _decomposed(b, a, most_rank)
    kept, lost = _enough(s[:most_rank], norm)
    root = s[:kept].sqrt()
    return _pair(u[:, :kept] * root, (v[:, :kept] * root).T, scale), lost


def _enough(values: Tensor, norm: float) -> tuple[int, float]:
    """How many of the largest singular values are enough, and the relative error that is left; `norm` is of all."""
    if not norm:
        return 1, 0.0
    left = (1.0 - values.double().square().cumsum(0) / norm**2).clamp_min(0).sqrt()
    good = (left <= SMALL_LOSS).nonzero()
    kept = int(good[0]) + 1 if len(good) else len(values)
    return kept, float(left[kept - 1])


def _decomposed(left: Tensor, right: Tensor, rank: int) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """The leading singular vectors and values of left @ right, and its Frobenius norm."""
    import torch

    if right.shape[0] < min(left.shape[0], right.shape[1]):  # thin: decompose the small matrix in the middle
        q_left, r_left = torch.linalg.qr(left)
        q_right, r_right = torch.linalg.qr(right.T)
        u, s, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return (q_left @ u, s, q_right @ vt.T), float(s.norm())
    whole = left @ right
    if min(whole.shape) <= 2 * rank:
        u, s, vt = torch.linalg.svd(whole, full_matrices=False)
        return (u, s, vt.T), float(s.norm())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the randomised decomposition takes its directions from torch's own generator
        u, s, v = torch.svd_lowrank(whole, q=rank + OVERSAMPLING, niter=ROUNDS)
    return (u, s, v), float(whole.norm())


def _pair(b: Tensor, a: Tensor, scale: float) -> Pair:
    return Pair(a.contiguous(), b.contiguous(), scale * a.shape[0])
