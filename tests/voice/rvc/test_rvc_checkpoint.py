"""Voices in files: those of RVC and Applio are read, ours are theirs, and anything else is called what it is."""

import collections
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.errors import ModelFileError, StorageError
from vividcover.tensors import write_tensors, write_torch
from vividcover.voice.rvc.checkpoint import (
    VoiceFile,
    model_info,
    read_pretrained,
    read_voice_file,
    synthesizer,
    write_voice_file,
)
from vividcover.voice.rvc.config import CONFIGS, RvcConfig, config_of, tiny
from vividcover.voice.rvc.discriminators import Discriminators
from vividcover.voice.rvc.network import Synthesizer
from vividcover.voice.rvc.vocoder import sine_source

ORACLES = Path(__file__).parents[2] / "oracles"
sys.path.insert(0, str(ORACLES))
from make_rvc import FRAMES, MICRO, inputs  # noqa: E402
from seeded import fill, noise, shapes_of  # noqa: E402

GOLD = np.load(ORACLES / "golden_rvc_files.npz")
PEERS = sorted(key.removeprefix("file/") for key in GOLD.files if key.startswith("file/"))


def filled(config, f0=True, posterior=True):
    voice = Synthesizer(config, f0, posterior)
    voice.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(voice)).items()})
    return voice.eval()


def sing(voice):
    config, x, source = voice.config, inputs(voice.config, 2, FRAMES), None
    if voice.f0:
        draws = torch.from_numpy(noise("source", 2, FRAMES * config.hop, 1))[..., 0]
        source = sine_source(x["f0"], config.rate, config.hop, draws)
    pitches = (x["pitch"], x["f0"]) if voice.f0 else (None, None)
    latent = torch.from_numpy(noise("latent", 2, config.inter, FRAMES))
    with torch.inference_mode():
        return voice.infer(x["features"], *pitches, x["speaker"], latent, source=source).numpy()[:, 0]


def micro(version="v2", rate=48000):
    return replace(tiny(version, rate), **MICRO)


@pytest.fixture
def published(tmp_path):
    """What RVC wrote, as a dict."""
    (tmp_path / "rvc.pth").write_bytes(GOLD["file/rvc_v2_48000_1"].tobytes())
    return torch.load(tmp_path / "rvc.pth", weights_only=True)


# --- the peers' files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PEERS)
def test_a_voice_that_rvc_or_applio_wrote_is_read_and_sings_as_it_does_there(name):
    program, version, rate, f0 = name.split("_")
    file = read_voice_file(GOLD[f"file/{name}"].tobytes())
    wanted = replace(micro(version, int(rate)), critic=1024)
    assert (file.config, file.f0, file.version, file.speakers, file.kind) == (wanted, f0 == "1", version, 2, "voice")
    np.testing.assert_allclose(sing(synthesizer(file))[:, ::3], GOLD[f"file_sung/{name}"], atol=1e-4)
    if program == "rvc":
        assert (file.info, file.extras) == ("7epoch", {"sr": f"{int(rate) // 1000}k"})
    else:
        assert {
            "epoch": 7,
            "step": 700,
            "embedder_model": "contentvec",
            "vocoder": "HiFi-GAN",
        }.items() <= file.extras.items()


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("rvc")])
def test_what_we_write_has_the_layout_that_rvc_writes(tmp_path, name):
    """Keys, number formats, shapes and the plain entries. (make_rvc.py loads such a file with RVC's own steps.)"""
    _, version, rate, f0 = name.split("_")
    out = write_voice_file(tmp_path / "ours.pth", filled(micro(version, int(rate)), f0 == "1"), info="7epoch")
    ours = torch.load(out, weights_only=True)
    layout = json.loads(str(GOLD[f"layout/{name}"]))
    weights = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in ours.pop("weight").items()}
    assert weights == layout.pop("weight")
    assert ours == layout


def test_weights_come_back_as_they_were_written(tmp_path):
    voice = filled(micro())
    file = read_voice_file(write_voice_file(tmp_path / "a.pth", voice))
    state = voice.state_dict()
    assert set(file.weights) == {name for name in state if not name.startswith("enc_q.")}
    assert all(torch.equal(tensor, state[name].half()) for name, tensor in file.weights.items())
    again = write_voice_file(tmp_path / "b.pth", file)
    assert again.read_bytes() == (tmp_path / "a.pth").read_bytes()


def test_safetensors_hold_a_voice_too(tmp_path):
    voice = filled(micro("v1", 40000), f0=False)
    file = read_voice_file(write_voice_file(tmp_path / "a.safetensors", voice, info="3epoch", extras={"author": "me"}))
    assert (file.config.to_list(), file.f0, file.info) == (voice.config.to_list(), False, "3epoch")
    assert file.extras["author"] == "me"
    same = read_voice_file(write_voice_file(tmp_path / "a.pth", voice))
    assert all(torch.equal(file.weights[name], tensor) for name, tensor in same.weights.items())


def spelled_anew(weights):
    new = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    return {name.replace(old, new[old]) if (old := name[-9:]) in new else name: t for name, t in weights.items()}


VARIANTS = {
    "the newer spelling of weight norm": lambda c: c | {"weight": spelled_anew(c["weight"])},
    "float32": lambda c: c | {"weight": {name: t.float() for name, t in c["weight"].items()}},
    "bfloat16": lambda c: c | {"weight": {name: t.bfloat16() for name, t in c["weight"].items()}},
    "ordered": lambda c: collections.OrderedDict(c, weight=collections.OrderedDict(c["weight"])),
    "with the posterior encoder": lambda c: c | {"weight": c["weight"] | {"enc_q.pre.weight": torch.ones(3)}},
    "without a version": lambda c: {key: value for key, value in c.items() if key != "version"},
    "without f0": lambda c: {key: value for key, value in c.items() if key not in ("f0", "info", "sr")},
    "another version named": lambda c: c | {"version": "v1"},
    "the rate as Applio's blend writes it": lambda c: c | {"sr": "48000", "info": None},
    "the rate in words": lambda c: c | {"config": [*c["config"][:-1], "48k"]},
    "another count of speakers named": lambda c: c | {"config": [*c["config"][:-3], 109, *c["config"][-2:]]},
    "Applio's embedder by name": lambda c: c | {"embedder_model": "contentvec", "vocoder": "HiFi-GAN"},
}


@pytest.mark.parametrize("number, variant", list(enumerate(VARIANTS)))
def test_every_spelling_in_the_wild_is_the_same_voice(tmp_path, published, number, variant):
    old = number % 2 == 0  # torch's format before 1.6
    torch.save(VARIANTS[variant](published), tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    file = read_voice_file(tmp_path / "a.pth")
    assert (file.version, file.config.rate, file.f0, file.speakers) == ("v2", 48000, True, 2)
    close = 0.02 if variant == "bfloat16" else 1e-4
    np.testing.assert_allclose(sing(synthesizer(file))[:, ::3], GOLD["file_sung/rvc_v2_48000_1"], atol=close)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def with_weight(name, value):
    return lambda c: (
        c | {"weight": {key: tensor for key, tensor in (c["weight"] | {name: value}).items() if tensor is not None}}
    )


def with_config(place, value):
    def change(content):
        entries = list(content["config"])
        entries[place] = value
        return content | {"config": entries}

    return change


MEMORY_BOMB = torch.zeros(1).expand(10**9)
REFUSED = {
    "vocoder 'RefineGAN'": (lambda c: c | {"vocoder": "RefineGAN"}, "needs the vocoder 'RefineGAN'"),
    "embedder": (lambda c: c | {"embedder_model": "spin-v2"}, "the features of 'spin-v2'"),
    "width of features": (with_weight("enc_p.emb_phone.weight", torch.ones(8, 1024)), "features of width 1024"),
    "a tensor is missing": (with_weight("flow.flows.0.pre.weight", None), r"missing: flow\.flows\.0\.pre\.weight"),
    "a tensor too many": (with_weight("dec.extra", torch.ones(1)), r"not known: dec\.extra"),
    "another shape": (with_weight("dec.conv_pre.bias", torch.ones(99)), r"dec\.conv_pre\.bias is \[99\], not \[16\]"),
    "half of a pair": (with_weight("dec.ups.0.weight_g", None), r"missing: dec\.ups\.0\.weight_g"),
    "not a number": (with_weight("dec.conv_pre.bias", torch.full((16,), torch.nan)), "not finite numbers"),
    "no tensor": (with_weight("dec.conv_pre.bias", [1.0]), r"dec\.conv_pre\.bias is not a plain tensor"),
    "whole numbers": (with_weight("dec.conv_pre.bias", torch.ones(16, dtype=torch.int64)), "not a plain tensor"),
    "huge out of nothing": (with_weight("dec.conv_pre.bias", MEMORY_BOMB), "not a plain tensor"),
    "no speakers": (with_weight("emb_g.weight", None), "no speakers"),
    "config is a dict": (lambda c: c | {"config": {"data": 1}}, "not the list of 18 entries"),
    "config is short": (lambda c: c | {"config": c["config"][:5]}, "not the list of 18 entries"),
    "config has words": (with_config(3, "many"), "not the list of 18 entries"),
    "an endless rate": (with_config(17, float("inf")), "not the list of 18 entries"),
    "another rate": (with_config(17, 44100), "is not 10 ms"),
    "other blocks": (with_config(9, "2"), "blocks are of an unknown kind"),
    "billions": (with_config(4, 10**9), "between 1 and 4096"),
    "negative": (with_config(12, [-12, -10, 2, 2]), "between 1 and 4096"),
    "no heads": (with_config(5, 0), "split over its heads"),
    "even kernels": (with_config(10, [2, 4, 6]), "kernel is even"),
    "other kernels": (with_config(14, [24, 20, 4, 6]), r"dec\.ups\.3\.weight_v is"),
    "no weights": (lambda c: {key: value for key, value in c.items() if key != "weight"}, "is not an RVC voice"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_voice_that_cannot_be_used_is_refused_with_the_reason(tmp_path, published, name):
    change, said = REFUSED[name]
    torch.save(change(published), tmp_path / "vivi.pth")
    with pytest.raises(ModelFileError, match=said) as caught:
        read_voice_file(tmp_path / "vivi.pth")
    assert caught.value.hint


OTHERS = {
    "D_": ({"model": {"discriminators.0.convs.0.bias": torch.ones(2)}, "optimizer": {}}, "critics"),
    "hubert": ({"model": {"post_extract_proj.weight": torch.ones(2)}, "args": None}, "feature network"),
    "rmvpe": ({"unet.encoder.bn.weight": torch.ones(2)}, "pitch network RMVPE"),
    "sovits": ({"weight": {"enc_p.text.weight": torch.ones(2)}}, "of another program"),
    "lora": ({"lora_unet_down.alpha": torch.ones(2)}, "LoRA"),
    "unknown": ({"a": 1, "b": 2}, "it holds 'a', 'b'"),
    "nothing": ({}, "it holds nothing"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_programs_file_is_called_what_it_is(tmp_path, name):
    content, said = OTHERS[name]
    torch.save(content, tmp_path / "vivi.pth")
    with pytest.raises(ModelFileError, match=f"vivi.pth is not an RVC voice: .*{said}") as caught:
        read_voice_file(tmp_path / "vivi.pth")
    assert ".pth" in caught.value.hint


# --- checkpoints of a training, pretrained networks ------------------------------------------------------------------


def checkpoint(config, f0=True, changed=None):
    """A generator of full size as a training leaves it, of zeros."""
    with torch.device("meta"):
        shapes = shapes_of(Synthesizer(config, f0))
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()} | (changed or {})
    return {"model": state, "iteration": 20, "optimizer": {"state": {}}, "learning_rate": 1e-4}


@pytest.mark.parametrize(
    "key, f0", [(("v1", 32000), True), (("v1", 48000), True), (("v2", 48000), True), (("v1", 40000), False)]
)
def test_a_trainings_checkpoint_sings_too_its_numbers_are_told_from_its_shapes(tmp_path, key, f0):
    torch.save(checkpoint(CONFIGS[key], f0), tmp_path / "G_20.pth")
    file = read_voice_file(tmp_path / "G_20.pth")
    assert (file.config, file.f0, file.kind, file.extras) == (CONFIGS[key], f0, "checkpoint", {"epoch": 20})
    assert not any(name.startswith("enc_q") for name in file.weights)


def test_a_checkpoint_of_an_unknown_network_is_refused(tmp_path):
    changed = {"dec.ups.0.weight_v": torch.zeros(512, 256, 99, dtype=torch.float16)}
    torch.save(checkpoint(CONFIGS["v2", 48000], changed=changed), tmp_path / "G_20.pth")
    with pytest.raises(ModelFileError, match="fit none of the published networks"):
        read_voice_file(tmp_path / "G_20.pth")


def test_pretrained_networks_of_both_kinds_are_what_training_starts_from(tmp_path):
    config = tiny("v2", 40000)
    generator, critics = filled(config), Discriminators("v2", config.critic)
    for name, net in (("f0G40k", generator), ("f0D40k", critics)):
        state = {f"module.{key}": value.half() for key, value in spelled_anew(net.state_dict()).items()}
        torch.save({"model": state, "iteration": 1}, tmp_path / f"{name}.pth")
    state = read_pretrained(tmp_path / "f0G40k.pth")
    assert all(value.dtype == torch.float32 for value in state.values())
    Synthesizer(config).load_state_dict(state)
    Discriminators("v2", config.critic).load_state_dict(read_pretrained(tmp_path / "f0D40k.pth", critic=True))


def test_a_wrong_file_as_pretrained_network_is_called_what_it_is(tmp_path):
    voice = write_voice_file(tmp_path / "vivi.pth", filled(micro()))
    with pytest.raises(ModelFileError, match=r"generator \(G\).*a voice for singing"):
        read_pretrained(voice)
    generator = write_torch(tmp_path / "G.pth", {"model": filled(micro()).state_dict()})
    with pytest.raises(ModelFileError, match=r"critic \(D\).*it is a generator"):
        read_pretrained(generator, critic=True)
    critics = write_torch(tmp_path / "D.pth", {"model": Discriminators("v1", 32).state_dict()})
    with pytest.raises(ModelFileError, match=r"generator \(G\).*critics"):
        read_pretrained(critics)
    broken = write_torch(tmp_path / "nan.pth", {"model": {"enc_q.pre.bias": torch.tensor([torch.nan])}})
    with pytest.raises(ModelFileError, match="not finite"):
        read_pretrained(broken)


# --- the rest --------------------------------------------------------------------------------------------------------


def test_what_a_voice_says_of_itself(tmp_path):
    out = write_voice_file(tmp_path / "a.pth", filled(micro()), info="9epoch", extras={"author": "me", "epoch": 9})
    parameters = sum(tensor.numel() for tensor in read_voice_file(out).weights.values())
    assert model_info(out) == {
        "kind": "voice", "version": "v2", "rate": 48000, "f0": True, "info": "9epoch", "speakers": 2,
        "parameters": parameters, "dtype": "float16", "sr": "48k", "author": "me", "epoch": 9,
    }  # fmt: skip


def test_a_voice_of_several_speakers_keeps_them(tmp_path):
    voice = filled(replace(micro(), speakers=5))
    file = read_voice_file(write_voice_file(tmp_path / "a.pth", voice))
    assert file.speakers == 5
    cropped = replace(file, weights={**file.weights, "emb_g.weight": file.weights["emb_g.weight"][:3]})
    cropped = replace(cropped, config=replace(cropped.config, speakers=3))
    assert read_voice_file(write_voice_file(tmp_path / "b.pth", cropped)).speakers == 3


def test_the_vocoder_may_sing_in_bfloat16_the_rest_stays_exact(tmp_path):
    file = read_voice_file(write_voice_file(tmp_path / "a.pth", filled(micro())))
    plain, fast = synthesizer(file), synthesizer(file, dtype=torch.bfloat16)
    assert {p.dtype for p in fast.dec.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in fast.enc_p.parameters()} == {torch.float32}
    exact, near = sing(plain), sing(fast)
    assert near.dtype == np.float32
    assert 0 < np.linalg.norm(near - exact) < 0.03 * np.linalg.norm(exact)
    assert not any(p.requires_grad for p in fast.parameters())


def test_a_voice_whose_training_went_wrong_is_not_written(tmp_path):
    voice = filled(micro())
    with torch.no_grad():
        voice.dec.conv_pre.bias[0] = 1e9  # beyond float16
    with pytest.raises(ModelFileError, match=r"dec\.conv_pre\.bias holds values that are not finite"):
        write_voice_file(tmp_path / "a.pth", voice)
    with pytest.raises(ModelFileError, match=r"missing: dec\.ups\.0\.weight_g"):
        write_voice_file(tmp_path / "a.pth", filled(micro()).fold())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_disk_that_is_full_leaves_no_half_voice(tmp_path, name):
    out = write_voice_file(tmp_path / name, filled(micro()))
    before, limits = out.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="The disk is full"):
            write_voice_file(out, filled(micro("v2", 32000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert out.read_bytes() == before


def test_metadata_that_cannot_be_read_is_said(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {"rvc": "{"})
    with pytest.raises(ModelFileError, match="what it says of itself"):
        read_voice_file(tmp_path / "a.safetensors")


@pytest.mark.parametrize("key", sorted(CONFIGS))
def test_every_published_config_survives_its_list(key):
    config = CONFIGS[key]
    assert RvcConfig.from_list(config.to_list(), config.version) == config
    assert config.hop * 100 == config.rate
    assert config.segment % config.hop == 0
    assert config_of(key[0], f"{key[1] // 1000}k") == config


def test_a_voice_file_can_be_made_by_hand(tmp_path):
    voice = filled(micro(), posterior=False)
    file = VoiceFile(voice.config, True, voice.state_dict(), info="blend", extras={"sr": "48000"})
    assert read_voice_file(write_voice_file(tmp_path / "a.pth", file)).info == "blend"
