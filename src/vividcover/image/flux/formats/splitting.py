"""A module that holds several layers' rows, into one pair for each layer; and several pairs into such a module.

Splitting is exact: each layer takes its rows of B, and A whole; where B has zeros for that layer, the columns of zeros
go and with them their rows of A. Fusing is exact too: A's stand one under the other, B's on the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vividcover.image.flux.formats.names import Covers
from vividcover.image.flux.formats.pairs import Pair

if TYPE_CHECKING:
    from torch import Tensor


def split(pair: Pair, covers: Covers, rows: Sequence[int]) -> dict[str, Pair]:
    """`rows`: of each of the layers. A layer whose rows of B are all zero, where others' are not, gets no pair."""
    import torch

    b = swapped(pair.b) if covers.swapped else pair.b
    if len(covers.names) == 1:
        return {covers.names[0]: Pair(pair.a, b, pair.alpha)}
    pieces = torch.split(b, list(rows))
    live = [piece.ne(0).any(dim=0) for piece in pieces]  # [r] each: the columns that do something
    if not any(bool(columns.any()) for columns in live):
        return {name: Pair(pair.a, piece, pair.alpha) for name, piece in zip(covers.names, pieces, strict=True)}
    if (even := _blocks(live, pair.rank)) is not None:
        live = even
    found = {}
    for name, piece, columns in zip(covers.names, pieces, live, strict=True):
        if bool(columns.all()):
            found[name] = Pair(pair.a, piece.contiguous(), pair.alpha)
        elif bool(piece.ne(0).any()):
            a = pair.a[columns].contiguous()
            found[name] = Pair(a, piece[:, columns].contiguous(), pair.scale * a.shape[0])
    return found


def _blocks(live: list[Tensor], rank: int) -> list[Tensor] | None:
    """Where B is block diagonal in equal blocks, the columns of each block, so that a block keeps its rank."""
    import torch

    if rank % len(live):
        return None
    each = rank // len(live)
    found = []
    for i, columns in enumerate(live):
        own = torch.zeros(rank, dtype=torch.bool)
        own[i * each : (i + 1) * each] = True
        if bool((columns & ~own).any()):
            return None
        found.append(own)
    return found


def fuse(pairs: Sequence[Pair | None], rows: Sequence[int]) -> Pair:
    """One pair for a module; None where a layer has no pair. All scales must be the same: bake them in first.

    Where all layers share one A, as after a split, that A is kept, and the rank stays.
    """
    import torch

    there = [pair for pair in pairs if pair is not None]
    first = there[0]
    if len(there) == len(pairs) and all(_same(pair.a, first.a) for pair in there):
        return Pair(first.a, torch.cat([pair.b for pair in there]), first.alpha)
    rank = sum(pair.rank for pair in there)
    b = first.b.new_zeros(sum(rows), rank)
    row = column = 0
    for pair, height in zip(pairs, rows, strict=True):
        if pair is not None:
            b[row : row + height, column : column + pair.rank] = pair.b
            column += pair.rank
        row += height
    return Pair(torch.cat([pair.a for pair in there]), b, first.scale * rank)


def _same(x: Tensor, y: Tensor) -> bool:
    import torch

    return x is y or (x.shape == y.shape and torch.equal(x, y))


def swapped(tensor: Tensor) -> Tensor:
    """The two halves of the rows in the other order."""
    import torch

    first, second = tensor.chunk(2)
    return torch.cat([second, first])
