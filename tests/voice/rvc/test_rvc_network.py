"""The network of a voice answers as RVC's and Applio's do, part by part and whole."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.voice.rvc import network
from vividcover.voice.rvc.config import CONFIGS, tiny
from vividcover.voice.rvc.network import Synthesizer, frame_mask
from vividcover.voice.rvc.vocoder import sine_source

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from make_rvc import FRAMES, MICRO, inputs  # noqa: E402
from seeded import fill, noise, shapes_of  # noqa: E402

GOLD = dict(np.load(ORACLES / "golden_rvc.npz")) | dict(np.load(ORACLES / "golden_rvc_full.npz"))
CLOSE = 1e-4


def filled(config, f0=True):
    voice = Synthesizer(config, f0)
    voice.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(voice)).items()})
    return voice.eval()


def sing(voice, frames=FRAMES):
    config, x = voice.config, inputs(voice.config, 2, frames)
    latent, source = torch.from_numpy(noise("latent", 2, config.inter, frames)), None
    if voice.f0:
        draws = torch.from_numpy(noise("source", 2, frames * config.hop, 1))[..., 0]
        source = sine_source(x["f0"], config.rate, config.hop, draws)
    pitches = (x["pitch"], x["f0"]) if voice.f0 else (None, None)
    with torch.inference_mode():
        return voice.infer(x["features"], *pitches, x["speaker"], latent, source=source).numpy()[:, 0]


def parts(voice, frames):
    x, config = inputs(voice.config, 2, frames), voice.config
    mask = frame_mask(torch.tensor([frames, frames - 6]), frames)
    with torch.inference_mode():
        g = voice.voice(x["speaker"])
        m_p, logs_p = voice.enc_p(x["features"], x["pitch"], mask)
        m_q, logs_q = voice.enc_q(x["spec"], g, mask)
        z = (m_q + torch.from_numpy(noise("latent", 2, config.inter, frames)) * logs_q.exp()) * mask
        z_p = voice.flow(z, g, mask)
        back = voice.flow(z_p, g, mask, reverse=True)
    return {"m_p": m_p, "logs_p": logs_p, "z": z, "m_q": m_q, "logs_q": logs_q, "z_p": z_p, "back": back}


@pytest.mark.parametrize("size, frames, every", [("tiny", 30, 3), ("long", 1100, 83), ("full", 40, 8)])
def test_every_part_answers_as_rvc_does(size, frames, every):
    voice = filled(CONFIGS["v2", 48000] if size == "full" else tiny("v2", 48000))
    for name, value in parts(voice, frames).items():
        wanted = GOLD[f"{size}/{name}"]
        assert np.abs(wanted).max() > 0.1, f"{name}: the golden values say something"
        np.testing.assert_allclose(value[..., ::every].numpy(), wanted, atol=CLOSE, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", sorted(key.removeprefix("sung/") for key in GOLD if key.startswith("sung/")))
def test_every_version_rate_and_kind_sings_as_the_program_that_published_it(name):
    _, version, rate, f0 = name.split("_")
    voice = filled(tiny(version, rate), f0 == "1")
    wanted = GOLD[f"sung/{name}"]
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(sing(voice)[:, ::3], wanted, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(sing(voice.fold())[:, ::3], wanted, atol=CLOSE, rtol=0)


def test_the_full_size_network_sings_as_rvc_does():
    voice = filled(CONFIGS["v2", 48000]).fold()
    np.testing.assert_allclose(sing(voice), GOLD["full/sung"], atol=CLOSE, rtol=0)
    assert np.abs(GOLD["full/sung"]).max() > 0.01


def test_a_training_pass_gives_what_rvcs_does():
    voice = filled(tiny("v2", 48000))
    config, x = voice.config, inputs(voice.config, 2, 60)
    starts = torch.from_numpy(GOLD["training/starts"])
    latent = torch.from_numpy(noise("latent", 2, config.inter, 60))
    source = torch.from_numpy(noise("source", 2, config.segment, 1))[..., 0]
    with torch.no_grad():
        audio, begun, mask, latents = voice(
            x["features"], torch.tensor([60, 50]), x["pitch"], x["f0"], x["spec"], x["speaker"], latent, starts, source
        )
    np.testing.assert_allclose(audio[:, 0, ::5].numpy(), GOLD["training/audio"], atol=CLOSE)
    for name, value in zip(("z", "z_p", "m_p", "logs_p", "m_q", "logs_q"), latents, strict=True):
        np.testing.assert_allclose(value[..., ::9].numpy(), GOLD[f"training/{name}"], atol=CLOSE, rtol=1e-4)
    assert begun.tolist() == GOLD["training/starts"].tolist()
    assert mask.sum(2).flatten().tolist() == [60, 50]


def test_published_sizes():
    sizes = {
        version: sum(p.numel() for p in Synthesizer(CONFIGS[version, 40000]).parameters()) for version in ("v1", "v2")
    }
    assert sizes["v2"] - sizes["v1"] == 192 * 512  # the width of the features is all that differs at 40k
    voice = Synthesizer(CONFIGS["v2", 48000], posterior=False)
    assert (len(voice.state_dict()), sum(p.numel() for p in voice.parameters())) == (457, 28_716_994)


def test_the_training_pass_draws_segments_that_lie_inside_every_item():
    voice = Synthesizer(tiny("v2", 48000))
    frames = voice.config.segment_frames
    x, lengths = inputs(voice.config, 8, frames + 4), torch.tensor([frames, frames + 1, frames + 4, frames - 3] * 2)
    torch.manual_seed(3)
    _, starts, _, _ = voice(x["features"], lengths, x["pitch"], x["f0"], x["spec"], x["speaker"])
    assert all(
        0 <= start <= max(length - frames, 0) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    )
    assert len(set(starts.tolist())) > 1


def test_how_many_queries_are_computed_at_once_changes_nothing(monkeypatch):
    voice = filled(tiny("v1", 40000))
    whole = parts(voice, 60)["m_p"]
    for rows in (1, 7, 21, 59):
        monkeypatch.setattr(network, "QUERIES", rows)
        np.testing.assert_allclose(parts(voice, 60)["m_p"].numpy(), whole.numpy(), atol=1e-5)


def test_what_stands_beside_an_item_in_a_batch_does_not_change_it():
    voice = filled(tiny("v2", 32000))
    x = inputs(voice.config, 2, 40)
    with torch.inference_mode():
        both, _ = voice.enc_p(x["features"], x["pitch"], frame_mask(torch.tensor([40, 25]), 40))
        alone, _ = voice.enc_p(x["features"][1:, :25], x["pitch"][1:, :25])
    np.testing.assert_allclose(both[1:, :, :25].numpy(), alone.numpy(), atol=1e-5)


def test_the_same_seed_sings_the_same_and_another_does_not():
    voice = filled(tiny("v2", 40000))
    x = inputs(voice.config, 1, 12)
    sung = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.inference_mode():
            sung.append(voice.infer(x["features"], x["pitch"], x["f0"], x["speaker"]))
    assert torch.equal(sung[0], sung[1])
    assert not torch.equal(sung[0], sung[2])


def test_another_speaker_sings_otherwise():
    voice = filled(tiny("v2", 40000), f0=False)
    x = inputs(voice.config, 1, 12)
    with torch.inference_mode():
        first, second = (voice.infer(x["features"], None, None, torch.tensor([n]), scale=0.0) for n in (0, 3))
    assert (first - second).abs().max() > 0.01


def test_the_attention_of_a_long_song_needs_memory_that_grows_with_its_length_alone(monkeypatch):
    """Nothing of the size frames × frames is ever made."""
    attention, sizes = network.Attention(32, 2), []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: sizes.append(x.numel()) or softmax(x, dim))
    for frames in (2048, 4096):
        with torch.inference_mode():
            attention(torch.randn(1, 32, frames), None)
    assert max(sizes) == 2 * network.QUERIES * 4096
    assert sizes[0] * 2 == sizes[-1]


def test_a_training_pass_is_one_graph_for_the_compiler():
    voice = filled(replace(tiny("v2", 48000), **MICRO)).train()
    x, lengths = inputs(voice.config, 2, 40), torch.tensor([40, 38])
    arguments = (x["features"], lengths, x["pitch"], x["f0"], x["spec"], x["speaker"])
    report = torch._dynamo.explain(voice)(*arguments)
    assert report.graph_break_count == 0, report.break_reasons
