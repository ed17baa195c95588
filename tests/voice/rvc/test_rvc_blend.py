"""Voices mix: their weights in shares, their indexes and ranges too; what does not fit is named."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rvc_making import content_vec, song, voice_file

from vividcover.errors import ParameterError
from vividcover.voice.rvc import index
from vividcover.voice.rvc.blend import blend, mixture
from vividcover.voice.rvc.checkpoint import read_voice_file
from vividcover.voice.rvc.convert import NeuralConversion, convert
from vividcover.voice.rvc.opening import open_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two voices as trained ones come: with an index and a card."""
    folder = tmp_path_factory.mktemp("pair")
    for number, (name, count) in enumerate({"anna": 120, "ben": 300}.items()):
        file = voice_file(folder / name / f"{name}.pth", seed=number, speakers=4 + number)
        features = np.random.default_rng(number).standard_normal((count, 768)).astype(np.float32) + 100 * number
        found = index.build(features, folder / name, name=name, version="v2")
        hertz = {"low": 100 * 2**number, "median": 200 * 2**number, "high": 300 * 2**number}
        card = {"kind": "vividcover-voice", "engine": "neural", "name": name, "f0_hz": hertz, "consent": "own voice"}
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.write(file, file.name)
            archive.write(found, found.name)
            archive.writestr("model.json", json.dumps(card))
    return folder / "anna.zip", folder / "ben.zip"


def test_every_weight_lies_between_the_two_at_the_share(pair, tmp_path):
    card = blend(*pair, 0.25, tmp_path / "between.zip")
    first, second, mixed = (open_model(path).file.weights for path in (*pair, tmp_path / "between.zip"))
    assert first.keys() == mixed.keys()
    for name, tensor in mixed.items():
        rows = len(tensor)  # of the speakers' table, the fewest
        wanted = 0.75 * first[name][:rows].float() + 0.25 * second[name][:rows].float()
        torch.testing.assert_close(tensor.float(), wanted, atol=2e-3, rtol=2e-3)  # the file is float16
    assert mixed["emb_g.weight"].shape[0] == 4
    assert card["f0_hz"]["median"] == pytest.approx(200 * 2**0.25, abs=0.1)
    assert [part["share"] for part in card["blend"]] == [0.75, 0.25]


def test_the_index_holds_features_of_both_in_their_shares(pair, tmp_path):
    blend(*pair, 0.25, tmp_path / "between.zip")
    vectors = open_model(tmp_path / "between.zip").index.vectors
    of_second = (vectors.mean(1) > 50).mean()
    assert of_second == pytest.approx(0.25, abs=0.02) and len(vectors) == 160


def test_a_mixture_sings(pair, tmp_path):
    blend(*pair, 0.5, tmp_path / "between.zip")
    song(tmp_path / "in.wav", 1)
    content = content_vec(tmp_path / "content.safetensors")
    report = convert(tmp_path / "in.wav", tmp_path / "between.zip", tmp_path / "out.wav",
                     NeuralConversion(method="pm"), weights=lambda name: content, device="cpu")  # fmt: skip
    assert report["voice"] == "anna + ben" and report["index"] > 0


def test_the_ends_of_the_way_are_the_voices_themselves(pair):
    first, second = (open_model(path).file for path in pair)
    for share, voice in ((0.0, first), (1.0, second)):
        mixed = mixture([(first, 1 - share), (second, share)])
        name = "dec.conv_pre.weight"
        assert torch.equal(mixed.weights[name], voice.weights[name].float())


def test_three_voices_mix_too_and_shares_need_not_add_up(pair):
    first, second = (open_model(path).file for path in pair)
    mixed = mixture([(first, 2), (second, 1), (second, 1)]).weights["enc_p.proj.bias"]
    wanted = (first.weights["enc_p.proj.bias"].float() + second.weights["enc_p.proj.bias"].float()) / 2
    torch.testing.assert_close(mixed, wanted)


def test_what_does_not_fit_is_named(pair, tmp_path):
    v1, other_rate = voice_file(tmp_path / "v1.pth", "v1"), voice_file(tmp_path / "32.pth", "v2", 32_000)
    wider, no_pitch = voice_file(tmp_path / "wide.pth", filter=96), voice_file(tmp_path / "speech.pth", f0=False)
    for other, said in ((v1, "version v2 and version v1"), (other_rate, "rate 48000 and rate 32000"),
                        (wider, "differ in size"), (no_pitch, "f0 True and f0 False")):  # fmt: skip
        with pytest.raises(ParameterError, match=said):
            blend(pair[0], other, 0.5, tmp_path / "out.zip")
    with pytest.raises(ParameterError, match="share of the second voice"):
        blend(*pair, 1.5, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
    with pytest.raises(ParameterError, match="all zero"):
        mixture([(read_voice_file(v1), 0.0)])
