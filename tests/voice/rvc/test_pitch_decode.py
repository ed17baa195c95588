"""What is done to saliences and pitch curves."""

from pathlib import Path

import numpy as np

from vividcover.voice.rvc.pitch.crepe import mean_of_three, median_of_three
from vividcover.voice.rvc.pitch.decode import fill_unvoiced, median_voiced, smooth_path

ORACLES = Path(__file__).parents[2] / "oracles"


def test_the_path_is_librosas():
    random = np.random.Generator(np.random.PCG64(5)).random((360, 400)).astype(np.float32) ** 40
    random[:, 200:210] = 0
    random[5, 200:205] = random[350, 205:210] = 1.0  # certain, and far apart: the path has to jump
    random /= random.sum(0)
    path, wanted = smooth_path(random.T), np.load(ORACLES / "golden_pitch_crepe.npz")["path"]
    np.testing.assert_array_equal(path, wanted)
    assert np.abs(np.diff(path)).max() > 100 and (path[201:204] == 5).all() and (path[206:209] == 350).all()


def test_rests_are_filled_with_lines():
    f0 = np.array([0, 100, 0, 0, 130, 0], np.float32)
    np.testing.assert_allclose(fill_unvoiced(f0), [100, 100, 110, 120, 130, 130])
    np.testing.assert_array_equal(fill_unvoiced(np.zeros(4, np.float32)), np.zeros(4))


def test_the_median_leaves_rests_alone_and_takes_outliers_out():
    f0 = np.array([0, 0, 100, 101, 200, 102, 103, 0, 0, 300, 0, 0], np.float32)
    for width in (3, 5):
        clean = median_voiced(f0, width)
        np.testing.assert_array_equal(clean > 0, f0 > 0)  # nothing becomes voiced or unvoiced
        assert clean[4] in (102, 101) and clean[9] == 300
    assert median_voiced(f0, 3)[3] == 101
    np.testing.assert_array_equal(median_voiced(np.full(5, 110, np.float32), 101), np.full(5, 110))


def test_filters_of_three_frames():
    np.testing.assert_allclose(mean_of_three(np.array([1, 2, 6, 4], np.float32)), [1.5, 3, 4, 5])
    np.testing.assert_allclose(median_of_three(np.array([5, 1, 6, 4], np.float32)), [1, 5, 4, 4])
    for one in (mean_of_three, median_of_three):
        np.testing.assert_array_equal(one(np.array([3], np.float32)), [3])
