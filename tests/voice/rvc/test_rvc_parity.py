"""With parity, a conversion is RVC's own: golden values of its `Pipeline` on the same small networks."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from make_convert import CASES, CUTTING, HUBERT, STEP, index_file, pitch_of
from seeded import fill, shapes_of, signal

from vividcover.voice.rvc import parity
from vividcover.voice.rvc.config import tiny
from vividcover.voice.rvc.decoder import Decoder
from vividcover.voice.rvc.hubert import ContentVec, HubertConfig
from vividcover.voice.rvc.index import Index
from vividcover.voice.rvc.network import Synthesizer
from vividcover.voice.rvc.pieces import high_passed
from vividcover.voice.rvc.settings import NeuralConversion
from vividcover.voice.rvc.singing import Nets

GOLD = np.load(Path(__file__).parents[2] / "oracles" / "golden_convert.npz")


@pytest.fixture(scope="module")
def content():
    c = HUBERT
    net = ContentVec(HubertConfig(
        layers=c["num_hidden_layers"], inner=c["intermediate_size"], channels=c["conv_dim"][0],
        position_kernel=c["num_conv_pos_embeddings"], position_groups=c["num_conv_pos_embedding_groups"],
    ))  # fmt: skip
    shapes, position = shapes_of(net), "encoder.pos_conv_embed.conv."
    direction = shapes.pop(position + "weight")
    shapes |= {position + "weight_v": direction, position + "weight_g": (1, 1, direction[2])}
    return ContentVec.from_tensors({name: torch.from_numpy(value) for name, value in fill(shapes).items()})


@pytest.mark.parametrize("name", CASES)
def test_a_song_is_sung_as_rvc_sings_it(content, name, monkeypatch, tmp_path):
    for ours, theirs in (("QUERY", "x_query"), ("CENTRE", "x_center"), ("MOST", "x_max")):
        monkeypatch.setattr(parity, ours, CUTTING[theirs] * 16_000)
    case = CASES[name]
    config = tiny(case["version"], case["rate"])
    voice = Synthesizer(config, posterior=False)
    voice.load_state_dict({key: torch.from_numpy(value) for key, value in fill(shapes_of(voice)).items()})
    voice.fold().eval()
    index = Index.read(index_file(config.features, tmp_path))
    nets = Nets(voice, Decoder(voice.dec, torch.float32), content, index, torch.device("cpu"))
    audio = high_passed(signal(case["seconds"], 16_000))
    f0 = pitch_of(len(parity.padded(audio)) // 160 + 1).astype(np.float32)
    settings = NeuralConversion(
        index_rate=case["index_rate"], protect=case["protect"], rms_mix_rate=case["rms"], noise_scale=0
    )
    sung = parity.sing(nets, audio, f0, settings)
    assert len(sung) == GOLD[f"{name}_samples"]
    assert np.abs(sung[::STEP] - GOLD[name] / 32_768).max() < 1e-4


def test_a_long_song_is_cut_at_its_quietest_places(monkeypatch):
    for name, seconds in (("QUERY", 1), ("CENTRE", 3), ("MOST", 4)):
        monkeypatch.setattr(parity, name, seconds * 16_000)
    audio = np.random.default_rng(0).standard_normal(10 * 16_000)
    for second in (2.5, 6.6, 8.2):
        audio[round(second * 16_000) : round((second + 0.1) * 16_000)] = 0
    assert [round(cut / 16_000, 1) for cut in parity.cuts(audio)] == [2.5, 6.6, 8.2]
    assert parity.cuts(audio[: 3 * 16_000]) == []
