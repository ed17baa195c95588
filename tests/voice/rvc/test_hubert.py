"""ContentVec: the same features as transformers' HuBERT, out of every spelling of its file."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.errors import AudioError, ModelFileError
from vividcover.voice.rvc.hubert import ContentVec, HubertConfig, published

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from seeded import fill, signal  # noqa: E402

SMALL = HubertConfig(hidden=128, layers=10, heads=2, inner=64, channels=16)
POSITION = "encoder.pos_conv_embed.conv"
TO_FAIRSEQ = {  # in this order
    "feature_extractor.conv_layers.0.layer_norm.": "feature_extractor.conv_layers.0.2.",
    "feature_projection.layer_norm.": "layer_norm.",
    "feature_projection.projection.": "post_extract_proj.",
    POSITION: "encoder.pos_conv.0",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense.": ".fc1.",
    ".feed_forward.output_dense.": ".fc2.",
}


def tensors(config=None, **more):
    """A file of transformers' spelling with weights by name."""
    shapes = {name: tuple(t.shape) for name, t in ContentVec(config).state_dict().items()}
    out, group, kernel = shapes.pop(f"{POSITION}.weight")
    shapes |= {
        "masked_spec_embed": (out,),
        f"{POSITION}.parametrizations.weight.original0": (1, 1, kernel),
        f"{POSITION}.parametrizations.weight.original1": (out, group, kernel),
    }
    return {name: torch.from_numpy(value) for name, value in fill(shapes).items()}


def fairseq(state):
    """The same weights as fairseq spells them, with what its file holds besides."""
    spelled = {}
    for name, tensor in state.items():
        for ours, theirs in TO_FAIRSEQ.items():
            name = name.replace(ours, theirs)
        if ".layers." in name:
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.") if "final" not in name else name
        if "feature_extractor" in name:
            name = name.replace(".conv.", ".0.")
        name = name.replace("masked_spec_embed", "mask_emb")
        spelled[name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )] = tensor  # fmt: skip
    return {"model": spelled | {"label_embs_concat": torch.zeros(504, 256)}, "args": None}


def wave(seconds, batch=1):
    return torch.from_numpy(np.stack([signal(seconds, 16000, seed) for seed in range(batch)]))


def test_the_published_size_gives_what_transformers_gives():
    golden = np.load(ORACLES / "golden_hubert.npz")
    net, frames, sound = ContentVec.from_tensors(tensors()), golden["frames"], wave(1.0)
    assert sum(t.numel() for t in net.parameters()) == pytest.approx(94.57e6, rel=1e-3)
    for layer in (1, 9, 12):
        mine = net.features(sound, "v2", layer)[0]
        assert mine.shape == (golden["count"], 768)
        np.testing.assert_allclose(mine[frames], golden[f"layer{layer}"], atol=1e-4)
    np.testing.assert_allclose(net.features(sound, "v1")[0, frames], golden["v1"], atol=1e-4)
    np.testing.assert_array_equal(net.features(sound), net.features(sound, "v2", 12))


def test_every_spelling_of_the_file_is_the_same_net(tmp_path):
    state, sound = tensors(SMALL), wave(0.3)
    wanted = ContentVec.from_tensors(state).features(sound)
    folder = tmp_path / "contentvec"
    folder.mkdir()
    torch.save(fairseq(state), tmp_path / "hubert_base.pt")
    torch.save({f"hubert.{name}": t for name, t in state.items()}, folder / "pytorch_model.bin")
    torch.save(ContentVec.from_tensors(state).state_dict(), tmp_path / "own.pt")
    for path in (tmp_path / "hubert_base.pt", folder, folder / "pytorch_model.bin", tmp_path / "own.pt"):
        np.testing.assert_allclose(ContentVec.load(path).features(sound), wanted, atol=1e-6)


def test_fairseq_names_are_really_fairseqs():
    names = set(fairseq(tensors(SMALL))["model"])
    for name in (
        "mask_emb", "layer_norm.weight", "post_extract_proj.bias", "encoder.pos_conv.0.weight_g",
        "feature_extractor.conv_layers.0.2.weight", "feature_extractor.conv_layers.6.0.weight",
        "encoder.layers.3.self_attn.q_proj.weight", "encoder.layers.3.self_attn_layer_norm.bias",
        "encoder.layers.3.fc2.weight", "encoder.layers.3.final_layer_norm.weight", "final_proj.weight",
    ):  # fmt: skip
        assert name in names
    assert set(published(fairseq(tensors(SMALL)))) == set(ContentVec(SMALL).state_dict())


def test_half_precision_files_and_number_formats():
    state, sound = tensors(SMALL), wave(0.5)
    wanted = ContentVec.from_tensors(state).features(sound)
    half = ContentVec.from_tensors({name: t.half() for name, t in state.items()}).features(sound)
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half, wanted, atol=0.05)
    coarse = ContentVec.from_tensors(state).in_format(torch.bfloat16).features(sound)
    assert torch.nn.functional.cosine_similarity(coarse, wanted, dim=-1).min() > 0.998


def test_a_batch_is_what_each_gives_alone():
    net, sounds = ContentVec.from_tensors(tensors(SMALL)), wave(0.4, batch=3)
    together = net.features(sounds)
    for row, sound in zip(together, sounds):
        np.testing.assert_allclose(row, net.features(sound[None])[0], atol=1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (719, 1), (720, 2), (800, 2), (48000, 149)])
def test_frames_for_a_length(samples, frames):
    assert ContentVec(SMALL).features(torch.zeros(1, samples)).shape == (1, frames, 128)


def test_silence_gives_numbers():
    assert ContentVec.from_tensors(tensors(SMALL)).features(torch.zeros(1, 16000)).isfinite().all()


def test_what_cannot_be_used_is_said():
    with pytest.raises(AudioError, match="too short"):
        ContentVec(SMALL).features(torch.zeros(1, 399))
    state = tensors(SMALL)
    with pytest.raises(ModelFileError, match="not a HuBERT"):
        ContentVec.from_tensors({"weight": torch.zeros(3)})
    with pytest.raises(ModelFileError, match=r"missing: encoder\.layer_norm\.weight"):
        ContentVec.from_tensors({name: t for name, t in state.items() if name != "encoder.layer_norm.weight"})
    headless = ContentVec.from_tensors({name: t for name, t in state.items() if "final_proj" not in name})
    assert headless.features(wave(0.1)).shape[-1] == 128
    with pytest.raises(ModelFileError, match="cannot serve a v1 voice"):
        headless.features(wave(0.1), "v1")
