"""Indexes go both ways between faiss, RVC's programs and us, and no file makes us fail in other words than ours."""

from __future__ import annotations

import random
from pathlib import Path

import faiss
import numpy as np
import pytest

from vividcover.errors import ModelFileError, ParameterError
from vividcover.voice.rvc.index import Index, build


def features(count: int, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "name"),
    [(1, "added_Flat_ana_v2.index"), (38, "added_Flat_ana_v2.index"), (39, "added_IVF1_Flat_nprobe_1_ana_v2.index"),
     (3000, "added_IVF76_Flat_nprobe_1_ana_v2.index")],
)  # fmt: skip
def test_an_index_is_read_by_faiss_and_found_the_same_in(tmp_path: Path, count: int, name: str) -> None:
    made = build(features(count), tmp_path, name="ana", version="v2")
    assert made.name == name
    theirs, ours = faiss.read_index(str(made)), Index.read(made, dimension=32)
    asked = features(50, seed=1)
    distances, rows = theirs.search(asked, min(8, count))
    near, which = ours.search(asked)
    assert np.array_equal(np.isfinite(near), rows >= 0)
    there = rows >= 0
    assert np.allclose(near[there], distances[there], rtol=1e-4)
    vectors = theirs.reconstruct_n(0, count)  # RVC reads all vectors like this
    assert np.array_equal(ours.vectors[which[there]], vectors[rows[there]])


def test_a_published_index_is_read(tmp_path: Path) -> None:
    """As RVC's trainers make them: by the factory, nprobe 1, added in pieces."""
    vectors = features(2000, 256)
    index = faiss.index_factory(256, "IVF51,Flat")
    faiss.extract_index_ivf(index).nprobe = 1
    index.train(vectors)
    faiss.write_index(index, str(tmp_path / "trained_IVF51_Flat_nprobe_1_x_v1.index"))
    for start in range(0, 2000, 512):
        index.add(vectors[start : start + 512])
    faiss.write_index(index, str(tmp_path / "added_IVF51_Flat_nprobe_1_x_v1.index"))
    found = Index.read(tmp_path / "added_IVF51_Flat_nprobe_1_x_v1.index", dimension=256)
    assert len(found) == 2000
    assert np.array_equal(np.sort(found.vectors, axis=0), np.sort(vectors, axis=0))
    with pytest.raises(ModelFileError, match="begins with `added_`, not `trained_`"):
        Index.read(tmp_path / "trained_IVF51_Flat_nprobe_1_x_v1.index")
    sparse = faiss.index_factory(256, "IVF51,Flat")
    sparse.train(vectors)
    sparse.add(vectors[:3])  # few cells are filled: faiss writes them in another layout
    found = Index.read(faiss.serialize_index(sparse).tobytes(), name="sparse")
    assert len(found) == 3
    assert np.array_equal(found.blend(vectors[:3], 1.0), vectors[:3])


def test_blending_is_rvcs(tmp_path: Path) -> None:
    made = build(features(2000), tmp_path, name="ana", version="v2")
    theirs, asked = faiss.read_index(str(made)), features(40, seed=2)
    distances, rows = theirs.search(asked, k=8)
    weights = np.square(1 / distances)
    weights /= weights.sum(axis=1, keepdims=True)
    vectors = theirs.reconstruct_n(0, 2000)
    expected = 0.6 * (vectors[rows] * weights[..., None]).sum(axis=1) + 0.4 * asked
    assert np.abs(Index.read(made).blend(asked, 0.6) - expected).max() < 1e-5


def test_a_feature_that_was_recorded_stays_itself_and_zero_rate_changes_nothing(tmp_path: Path) -> None:
    index = Index.read(build(features(100), tmp_path, name="ana", version="v2"))
    own = index.vectors[:5]
    assert np.allclose(index.blend(own, 1.0), own, atol=1e-6)  # RVC divides by zero here
    asked = features(5, seed=3)
    assert index.blend(asked, 0.0) is asked
    assert index.blend(asked[:0], 0.5).shape == (0, 32)
    with pytest.raises(ParameterError, match=r"index rate is 1\.5"):
        index.blend(asked, 1.5)


def test_the_same_features_give_the_same_file_and_broken_rows_are_left_out(tmp_path: Path) -> None:
    given = features(500)
    first = build(given, tmp_path / "a", name="ana", version="v2").read_bytes()
    assert build(given, tmp_path / "b", name="ana", version="v2").read_bytes() == first
    given[7, 3] = np.nan
    assert len(Index.read(build(given, tmp_path / "c", name="ana", version="v2"))) == 499
    with pytest.raises(ParameterError, match="no features"):
        build(np.full((3, 32), np.nan, np.float32), tmp_path, name="ana", version="v2")


def test_very_many_features_are_replaced_by_centres(tmp_path: Path) -> None:
    """RVC's own code fails here: it never imported what it calls."""
    index = Index.read(build(features(900, 8), tmp_path, name="ana", version="v2", most=800, centres=60))
    assert index.vectors.shape == (60, 8)
    assert np.abs(index.vectors).max() < 5


def test_an_index_of_another_voice_is_refused_with_both_sizes(tmp_path: Path) -> None:
    made = build(features(100, 256), tmp_path, name="ana", version="v1")
    with pytest.raises(ModelFileError, match=r"features of 256 numbers; this voice needs 768.*v1 has 256, v2 768"):
        Index.read(made, dimension=768)
    with pytest.raises(ModelFileError, match="256 numbers; these have the shape"):
        Index.read(made).blend(features(3, 768), 0.5)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "it is empty"), (b"\x80\x02}q\x00.", "begins with"), (b"IxF2", "cut short"), (b"<html>", "begins with")],
)
def test_what_is_no_index_is_said(data: bytes, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        Index.read(data, name="x.index")
    with pytest.raises(ModelFileError, match="There is no index"):
        Index.read(Path("nowhere.index"))


def test_a_voice_with_another_measure_of_distance_is_refused() -> None:
    index = faiss.IndexFlatIP(8)
    index.add(features(5, 8))
    with pytest.raises(ModelFileError, match="begins with b'IxFI'"):
        Index.read(faiss.serialize_index(index).tobytes(), name="x.index")


def test_damaged_and_hostile_files_are_refused_or_read_and_never_crash(tmp_path: Path) -> None:
    whole = build(features(100, 8), tmp_path, name="ana", version="v2").read_bytes()
    chance, refused = random.Random(0), 0
    for number in range(3000):
        damaged = bytearray(whole)
        if number % 3 == 0:
            damaged = damaged[: chance.randrange(len(damaged))]
        else:
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(min(len(damaged), 400 if number % 3 == 1 else 1 << 30))] = chance.randrange(
                    256
                )
        try:
            index = Index.read(bytes(damaged), name="x.index")
            index.blend(features(2, index.dimension), 0.5)
        except ModelFileError:
            refused += 1
    assert refused > 1500
