"""The index of a voice: every content feature of its recordings, and the way to the nearest ones.

    index = build(features, folder, name="vivi", version="v2")        # → folder/added_IVF…_vivi_v2.index
    index = Index.read(path_or_bytes, dimension=768)
    nearer = index.blend(features, rate=0.75)                         # [T, C] → [T, C]

While converting, each feature is moved towards the mean of its nearest recorded ones, which pulls the pronunciation
towards the person's own. Files are faiss's, named and made as RVC makes them, so that they go both ways: an inverted
file of Voronoi cells over plain vectors. Where RVC fails, under 39 vectors, ours is a plain list.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import ModelFileError, ParameterError
from vividcover.files import aside

Features = NDArray[np.float32]  # [N, C] at 50 Hz
NEAREST = 8  # recorded features that one is blended from
PER_CELL = 39  # vectors that faiss wants for training one cell
MOST = 200_000  # vectors, 67 min; above, they are replaced by centres
CENTRES = 10_000
ADDED_AT_ONCE = 8192  # vectors
SEED = 1234
SANE = 1e6  # features are of the size of 1; a NaN is not below it
TINY = 1e-9  # squared distance below which two features are the same
INVERTED, FLAT, L2 = b"IwFl", (b"IxF2", b"IxFl"), 1  # kinds of file: cells of plain vectors, a plain list; the metric
HINT = "Give the added_….index that was made with this voice, or convert without one (index rate 0)."


@dataclass(frozen=True)
class Index:
    """`vectors` [N, C] are all features, cell by cell; a cell i is `vectors[starts[i]:starts[i + 1]]`.

    `centres` [cells, C] are where the cells lie; `probes` of them are looked into for each search.
    """

    vectors: Features
    centres: Features
    starts: NDArray[np.int64]
    probes: int

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def read(cls, source: Path | bytes, *, dimension: int | None = None, name: str = "") -> Index:
        """From a file or its bytes. `dimension`: what the voice needs (256 for v1, 768 for v2).

        Raises `ModelFileError` for another kind of file, a `trained_` one, a damaged one, or another dimension.
        """
        name = name or (source.name if isinstance(source, Path) else "the index")
        if isinstance(source, Path) and not source.is_file():
            raise ModelFileError(f"There is no index at {source}.", HINT)
        index = cls(*parse(source.read_bytes() if isinstance(source, Path) else source, name))
        if not len(index):
            raise ModelFileError(
                f"{name} holds no features: it is the empty index that training leaves on its way.",
                "Use the file whose name begins with `added_`, not `trained_`.",
            )
        if not all((np.abs(array) < SANE).all() for array in (index.vectors, index.centres)):
            raise ModelFileError(f"{name} is damaged: it holds numbers that no features have.", HINT)
        if dimension is not None and index.dimension != dimension:
            raise ModelFileError(
                f"{name} holds features of {index.dimension} numbers; this voice needs {dimension}.",
                f"It belongs to another voice (v1 has 256, v2 768). {HINT}",
            )
        return index

    def search(self, features: Features, k: int = NEAREST, *, probes: int | None = None
               ) -> tuple[Features, NDArray[np.int64]]:  # fmt: skip
        """Squared distances and row numbers [T, k] of the nearest vectors, nearest first; −1 where there are fewer.

        Looks into the `probes` cells whose centres are nearest: as many as the file says (RVC's say 1).
        """
        self._check(features)
        k = min(k, len(self))
        probes = min(probes or self.probes, len(self.centres))
        _, cells = _nearest(features, self.centres, probes)
        distances = np.full((len(features), probes, k), np.inf, np.float32)
        rows = np.full((len(features), probes, k), -1, np.int64)
        for probe in range(probes):
            for cell in np.unique(cells[:, probe]):
                low, high = self.starts[cell], self.starts[cell + 1]
                asking = np.flatnonzero(cells[:, probe] == cell)
                near, which = _nearest(features[asking], self.vectors[low:high], min(k, high - low))
                distances[asking, probe, : near.shape[1]], rows[asking, probe, : near.shape[1]] = near, which + low
        near, which = distances.reshape(len(features), -1), rows.reshape(len(features), -1)
        best = np.argsort(near, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(near, best, axis=1), np.take_along_axis(which, best, axis=1)

    def blend(self, features: Features, rate: float, k: int = NEAREST, *, probes: int | None = None) -> Features:
        """`features` [T, C] moved by `rate` (0 … 1) towards the mean of the k nearest, weighted by 1/distance⁴.

        (faiss gives the distance's square, and RVC squares its inverse.) One that was recorded just so stays itself;
        one whose cell is empty stays as it is.
        """
        if not 0 <= rate <= 1:
            raise ParameterError(f"The index rate is {rate}.", "Choose it from 0 (no index) to 1.")
        self._check(features)
        if rate == 0 or not len(features):
            return features
        distances, rows = self.search(features, k, probes=probes)
        weights = np.where(rows >= 0, 1 / np.square(np.maximum(distances, TINY), dtype=np.float64), 0.0)
        found = weights.sum(axis=1, keepdims=True)
        weights /= np.maximum(found, np.finfo(np.float64).tiny)
        nearest = np.einsum("tk,tkc->tc", weights.astype(np.float32), self.vectors[np.maximum(rows, 0)])
        moved = (rate * nearest + (1 - rate) * features).astype(np.float32)
        return np.where(found > 0, moved, features)

    def _check(self, features: Features) -> None:
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ModelFileError(
                f"The index holds features of {self.dimension} numbers; these have the shape {features.shape}.",
                f"It belongs to another voice (v1 has 256, v2 768). {HINT}",
            )


def build(features: Features, folder: Path, *, name: str, version: str, most: int = MOST, centres: int = CENTRES
          ) -> Path:  # fmt: skip
    """Writes the index of `features` [N, C] into `folder` and returns its file. Same features, same file.

    Rows that are not finite are left out. Raises `ParameterError` when none are left.
    """
    faiss = _faiss()
    features = np.ascontiguousarray(features[np.isfinite(features).all(axis=1)], np.float32)
    if not len(features):
        raise ParameterError("There are no features to make an index of.", "The recordings hold no usable sound.")
    features = features[np.random.default_rng(SEED).permutation(len(features))]
    if len(features) > most:
        features = _centres_of(features, centres)
    cells = _cells(len(features))
    kind = f"IVF{cells},Flat" if cells else "Flat"
    index = faiss.index_factory(features.shape[1], kind)
    if cells:
        index.nprobe = 1
        index.cp.min_points_per_centroid = min(PER_CELL, len(features) // cells)  # or faiss warns on stderr
    index.train(features)
    for start in range(0, len(features), ADDED_AT_ONCE):
        index.add(features[start : start + ADDED_AT_ONCE])
    out = Path(folder) / file_name(cells, name, version)
    with aside(out) as part:
        part.write_bytes(faiss.serialize_index(index).tobytes())
    return out


def file_name(cells: int, name: str, version: str) -> str:
    """RVC's name of an index: programs look for `added_` at its start and the voice's name inside."""
    kind = f"IVF{cells}_Flat_nprobe_1" if cells else "Flat"
    return f"added_{kind}_{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}_{version}.index"


def _cells(count: int) -> int:
    """How many Voronoi cells RVC makes for so many vectors; 0 = a plain list."""
    return min(int(16 * count**0.5), count // PER_CELL)


def _centres_of(features: Features, centres: int) -> Features:
    """k-means: `centres` vectors that stand for all."""
    faiss = _faiss()
    kmeans = faiss.Kmeans(
        features.shape[1], centres, niter=8, seed=SEED, max_points_per_centroid=64, min_points_per_centroid=1
    )
    kmeans.train(features)
    return np.ascontiguousarray(kmeans.centroids, np.float32)


# --- faiss's file format (faiss/impl/index_write.cpp) ---------------------------------------------------------------


def parse(data: bytes, name: str) -> tuple[Features, Features, NDArray[np.int64], int]:
    """What `Index` holds, of a file's bytes. Read here and not by faiss, which trusts every number in the file."""
    file = _Bytes(data, name)
    magic = file.take(4) if data else b""
    if magic in FLAT:
        vectors = file.flat_index()
        return vectors, vectors[:1], np.array([0, len(vectors)], np.int64), 1
    if magic != INVERTED:
        kind = "it is empty" if not data else f"it begins with {magic!r}"
        raise ModelFileError(f"{name} is not an index that voices are published with: {kind}.", HINT)
    dimension, count = file.header()
    cells, probes = file.numbers(2)
    file.must(file.take(4) in FLAT, "its cells are kept in another way than voices are published with")
    centres = file.flat_index()
    file.must(centres.shape == (cells, dimension), f"{centres.shape} centres for {cells} cells of {dimension}")
    sizes, vectors = file.inverted_lists(int(cells), int(dimension))
    file.must(len(vectors) == count, f"it says {count} features and has {len(vectors)}")
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return vectors, centres, starts, int(np.clip(probes, 1, max(1, cells)))


class _Bytes:
    """A file's bytes, read from front to back; asking for more than is there is an error that names the file."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = memoryview(data), name, 0

    def must(self, holds: bool, why: str) -> None:
        if not holds:
            raise ModelFileError(f"{self.name} is damaged: {why}.", HINT)

    def take(self, size: int) -> bytes:
        self.must(0 <= size <= len(self.data) - self.at, f"it is cut short at {len(self.data)} bytes")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def numbers(self, count: int) -> NDArray[np.int64]:
        """`count` of the 64-bit numbers that sizes are kept in."""
        return np.frombuffer(self.take(8 * count), "<i8").astype(np.int64)

    def vectors(self, count: int, dimension: int) -> Features:
        return np.frombuffer(self.take(4 * count * dimension), "<f4").reshape(count, dimension).astype(np.float32)

    def header(self) -> tuple[int, int]:
        """The numbers that every index begins with: dimension and count."""
        dimension, count = struct.unpack("<iq", self.take(12))
        self.take(16 + 1)  # two numbers that nothing uses; whether it is trained
        (metric,) = struct.unpack("<i", self.take(4))
        self.must(dimension > 0 and count >= 0, f"it says {count} features of {dimension} numbers")
        self.must(metric == L2, f"it measures distance in another way (metric {metric}) than voices do")
        return dimension, count

    def flat_index(self) -> Features:
        """A plain list of vectors."""
        dimension, count = self.header()
        (floats,) = self.numbers(1)
        self.must(floats == count * dimension, f"{floats} numbers for {count} features of {dimension}")
        return self.vectors(count, dimension)

    def inverted_lists(self, cells: int, dimension: int) -> tuple[NDArray[np.int64], Features]:
        """How many features each cell has, and all of them, cell by cell."""
        direct = self.take(1)[0]
        self.take(8 * int(self.numbers(1)[0]))  # where each number lies: follows from the lists
        self.must(direct in (0, 1), f"its direct map is of kind {direct}")
        kind = self.take(4)
        if kind == b"il00":
            return np.zeros(cells, np.int64), np.zeros((0, dimension), np.float32)
        self.must(kind == b"ilar", f"its lists are of kind {kind!r}")
        listed, size = self.numbers(2)
        self.must(listed == cells and size == 4 * dimension, f"{listed} lists of {size} bytes a feature")
        layout, (count,) = self.take(4), self.numbers(1)
        sizes = np.zeros(cells, np.int64)
        if layout == b"full":
            self.must(count == cells, f"{count} sizes for {cells} cells")
            sizes[:] = self.numbers(int(count))
        else:
            self.must(layout == b"sprs" and count % 2 == 0, f"its lists are laid out as {layout!r}")
            where, many = self.numbers(int(count)).reshape(-1, 2).T
            self.must(bool(((where >= 0) & (where < cells)).all()), "it names a cell that is not there")
            sizes[where] = many
        fits = bool(((sizes >= 0) & (sizes <= len(self.data))).all()) and int(sizes.sum()) * size <= len(self.data)
        self.must(fits, "its cells overflow it")
        parts = [np.zeros((0, dimension), np.float32)]
        for many in sizes[sizes > 0]:
            parts.append(self.vectors(int(many), dimension))
            self.take(8 * int(many))  # the features' numbers, which nobody asks for
        return sizes, np.concatenate(parts)


def _nearest(asking: Features, among: Features, k: int) -> tuple[Features, NDArray[np.int64]]:
    """Squared distances and numbers [T, k] of the k nearest rows of `among`, nearest first."""
    squared = np.square(asking).sum(axis=1)[:, None] + np.square(among).sum(axis=1) - 2 * asking @ among.T
    chosen = np.argpartition(squared, k - 1, axis=1)[:, :k] if 0 < k < len(among) else np.argsort(squared, axis=1)
    chosen = np.take_along_axis(chosen, np.argsort(np.take_along_axis(squared, chosen, axis=1), axis=1), axis=1)
    exact = np.square(asking[:, None] - among[chosen]).sum(axis=2)  # the sum above loses digits where they are close
    return exact.astype(np.float32), chosen.astype(np.int64)


def _faiss() -> Any:
    from vividcover.tensors import require

    require()
    import faiss

    return faiss


def as_npy(features: Features) -> bytes:
    """total_fea.npy: the features as numpy's file, as RVC puts it beside the index."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(features, np.float32), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
