"""`track` and `Tracker`: every method by name, and what becomes of odd sounds and settings."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.errors import AudioError, ModelFileError, ParameterError, WeightsError
from vividcover.voice.rvc.pitch import METHODS, Tracker, track
from vividcover.voice.rvc.pitch.crepe import Crepe
from vividcover.voice.rvc.pitch.fcpe import Fcpe

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from seeded import fill, shapes_of, signal

CLASSIC = [method for method, weights in METHODS.items() if not weights]
LIGHT = [*CLASSIC, "fcpe", "crepe-tiny", "mangio-crepe-tiny"]  # RMVPE's 90 M weights are tested in test_pitch_nets


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of weights by chance, as the resolver of the program would give them."""
    folder = tmp_path_factory.mktemp("weights")

    def tensors(module):
        return {name: torch.from_numpy(value) for name, value in fill(shapes_of(module)).items()}

    net = tensors(Fcpe()) | {"cent_table": torch.linspace(2051.15, 9151.29, 360)}
    torch.save({"model": net, "config_dict": {"model": {"conv_only": True}}}, folder / "fcpe")
    torch.save(tensors(Crepe((128, 16, 16, 16, 32, 64))), folder / "crepe-tiny")

    class Folder:
        def path(self, name):
            if not (folder / name).exists():
                raise WeightsError(f"The weights {name!r} are not there.", "Pull them.")
            return folder / name

    return Folder()


@pytest.mark.parametrize("method", LIGHT)
@pytest.mark.parametrize("samples", [800, 1, 399, 16000, 16159, 16161])
def test_a_frame_every_ten_milliseconds_whatever_the_length(method, samples, weights):
    f0 = track(signal(1.1, 16000)[:samples], method, weights=weights)
    assert f0.shape == (samples // 160 + 1,) and f0.dtype == np.float32
    assert np.isfinite(f0).all() and (f0 >= 0).all() and (f0 < 2100).all()


@pytest.mark.parametrize("method", LIGHT)
def test_silence_has_no_pitch(method, weights):
    for seconds in (0.05, 1.0):
        silence = np.zeros(int(16000 * seconds), np.float32)
        for unvoiced in ("zero", "interpolate"):
            assert not track(silence, method, weights=weights, unvoiced=unvoiced).any()


def test_rests_are_zero_or_filled():
    sound = signal(2.0, 16000)
    rests, filled = track(sound, "pm"), track(sound, "pm", unvoiced="interpolate")
    voiced = rests > 0
    assert 0.3 < voiced.mean() < 0.9
    assert (filled > 0).all()
    np.testing.assert_array_equal(filled[voiced], rests[voiced])


def test_the_median_takes_out_a_slip(monkeypatch):
    tracker = Tracker("pm", median=3)
    slip = np.array([0, 100, 100, 200, 100, 0], np.float32)
    monkeypatch.setattr(tracker, "_run", lambda sound: slip)
    np.testing.assert_array_equal(tracker(np.ones(800, np.float32)), [0, 100, 100, 100, 150, 0])


def test_a_tracker_serves_many_recordings(weights):
    tracker = Tracker("fcpe", weights=weights)
    first, second = signal(0.5, 16000, 1), signal(0.7, 16000, 2)
    again = [tracker(first), tracker(second), tracker(first)]
    np.testing.assert_array_equal(again[0], again[2])
    np.testing.assert_array_equal(again[1], track(second, "fcpe", weights=weights))


def test_a_threshold_decides_what_is_voiced(weights):
    sound = signal(0.5, 16000)
    low, high = (track(sound, "fcpe", weights=weights, threshold=value) for value in (0.0, 1.0))
    assert (low > 0).all() and not high.any()


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (np.array([0.1, np.nan, np.inf] * 400, np.float32), "800 of 1200 samples are not numbers"),
        (np.zeros(0, np.float32), "0 samples"),
        (np.zeros((2, 1600), np.float32), r"one channel; this sound is \[2, 1600\]"),
    ],
)
def test_unusable_sound_is_refused(sound, said):
    with pytest.raises(AudioError, match=said):
        track(sound, "pm")


def test_another_rate_is_refused():
    with pytest.raises(AudioError, match="this sound has 8000 Hz"):
        track(signal(0.5, 8000), "pm", rate=8000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "yin"}, "Unknown pitch detection 'yin'"),
        ({"method": "pm", "unvoiced": "hold"}, "cannot be 'hold'"),
        ({"method": "pm", "median": 500}, "500 frames"),
        ({"method": "pm", "crepe_hop_length": 0}, "0 samples"),
        ({"method": "crepe"}, "needs its weights"),
    ],
)
def test_unusable_settings_are_refused(settings, said):
    with pytest.raises(ParameterError, match=said):
        Tracker(**settings)


def test_missing_or_wrong_weights_are_said_before_any_work(weights, tmp_path):
    with pytest.raises(WeightsError, match="'rmvpe'"):
        Tracker("rmvpe_gpu", weights=weights)

    class Wrong:
        def path(self, name):
            return weights.path("fcpe")

    with pytest.raises(ModelFileError, match="not a CREPE file"):
        Tracker("crepe-tiny", weights=Wrong())


def test_a_mean_offset_and_other_number_formats_do_not_matter():
    sound = signal(0.6, 16000)
    np.testing.assert_allclose(track(sound.astype(np.float64), "pm"), track(sound, "pm"))
    shifted = track(sound + np.float32(0.2), "pm")
    both = (shifted > 0) & (track(sound, "pm") > 0)
    assert both.sum() > 20
    np.testing.assert_allclose(shifted[both], track(sound, "pm")[both], rtol=0.02)
