"""Golden values of the RVC network, from the code that RVC and Applio publish. Needs only torch and numpy.

    python tests/oracles/make_rvc.py RVC_FOLDER APPLIO_FOLDER

RVC_FOLDER is an unpacked copy of the 2023 line (github.com/zsxkib/voice-cloning-training), APPLIO_FOLDER of
github.com/IAHispano/Applio; both MIT. Their networks are filled by name (seeded.py), every random draw is replaced by
`noise(…)`, and what they answer is kept. The script also shows the files' way back: a voice that we write is loaded by
RVC's loading steps, with nothing missing and nothing left over, and sings the same there.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from seeded import fill, noise, shapes_of, signal

from vividcover.voice.rvc.checkpoint import read_voice_file, synthesizer, write_voice_file
from vividcover.voice.rvc.config import RvcConfig, tiny

HERE = Path(__file__).parent
VOICES = [(version, rate) for version in ("v1", "v2") for rate in (32000, 40000, 48000)]
FULL = ("v2", 48000)
MICRO: dict[str, Any] = {  # of the sample files
    "inter": 8, "hidden": 8, "filter": 8, "layers": 1, "upsample_initial": 16, "speakers": 2, "gin": 4,
}  # fmt: skip
FRAMES = 7


def draw_like(x: torch.Tensor, **_: Any) -> torch.Tensor:
    """Stands for torch.randn_like: [B, N, 1] is the source's noise, [B, C, T] the latent's."""
    return torch.from_numpy(noise("source" if x.shape[-1] == 1 else "latent", *x.shape)).to(x)


def draw(*shape: Any, **_: Any) -> torch.Tensor:
    """Stands for torch.rand."""
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return torch.full(tuple(shape), 0.4)


def filled(module: torch.nn.Module) -> Any:
    module.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(module)).items()})
    return module.eval()


def inputs(config: RvcConfig, batch: int, frames: int) -> dict[str, torch.Tensor]:
    """What a network is given; the tests make the same."""
    f0 = 200 * 2 ** (0.5 * noise("f0", batch, frames))
    f0[:, 2::5] = 0  # unvoiced
    made = {
        "features": noise("features", batch, frames, config.features),
        "pitch": np.abs(80 * noise("pitch", batch, frames)).astype(np.int64) % 255 + 1,
        "f0": f0,
        "spec": np.abs(noise("spec", batch, config.spec_channels, frames)),
        "speaker": np.arange(batch) % config.speakers,
    }
    return {name: torch.from_numpy(value) for name, value in made.items()}


def rvc_network(config: RvcConfig, f0: bool) -> Any:
    from infer.lib.infer_pack import models

    name = f"SynthesizerTrnMs{config.features}NSFsid{'' if f0 else '_nono'}"
    entries = config.to_list()
    entries[1] = config.segment_frames
    return filled(getattr(models, name)(*entries, is_half=False))


def applio_network(config: RvcConfig, f0: bool) -> Any:
    from rvc.lib.algorithm.synthesizers import Synthesizer

    return filled(Synthesizer(*config.to_list(), use_f0=f0, text_enc_hidden_dim=config.features))


def sung(net: Any, config: RvcConfig, f0: bool, frames: int = FRAMES) -> np.ndarray[Any, Any]:
    x = inputs(config, 2, frames)
    pitches = (x["pitch"], x["f0"]) if f0 else ()
    if type(net).__module__.startswith("rvc.") and not f0:
        pitches = (None, None)
    with torch.no_grad():
        return net.infer(x["features"], torch.tensor([frames] * 2), *pitches, x["speaker"])[0].numpy()[:, 0]


def parts(gold: dict[str, Any], name: str, net: Any, config: RvcConfig, frames: int, every: int) -> None:
    """Each part alone, on a padded batch; every n-th frame is kept."""
    x, lengths = inputs(config, 2, frames), torch.tensor([frames, frames - 6])
    g = net.emb_g(x["speaker"])[..., None]
    with torch.no_grad():
        m_p, logs_p, mask = net.enc_p(x["features"], x["pitch"], lengths)
        z, m_q, logs_q, _ = net.enc_q(x["spec"], lengths, g=g)
        z_p = net.flow(z, mask, g=g)
        back = net.flow(z_p, mask, g=g, reverse=True)
    made = {"m_p": m_p, "logs_p": logs_p, "z": z, "m_q": m_q, "logs_q": logs_q, "z_p": z_p, "back": back}
    gold.update({f"{name}/{key}": value.numpy()[..., ::every] for key, value in made.items()})


def networks(gold: dict[str, Any]) -> None:
    for version, rate in VOICES:
        for f0 in (True, False):
            config = tiny(version, rate)
            gold[f"sung/rvc_{version}_{rate}_{int(f0)}"] = sung(rvc_network(config, f0), config, f0)[:, ::3]
    for rate, f0 in ((24000, True), (32000, True), (40000, False), (48000, True)):
        config = tiny("v2", rate)
        gold[f"sung/applio_v2_{rate}_{int(f0)}"] = sung(applio_network(config, f0), config, f0)[:, ::3]
    config = tiny(*FULL)
    net = rvc_network(config, True)
    parts(gold, "tiny", net, config, 30, 3)
    parts(gold, "long", net, config, 1100, 83)  # more queries than are computed at once
    x, lengths = inputs(config, 2, 60), torch.tensor([60, 50])
    with torch.no_grad():
        audio, starts, _, _, latents = net(
            x["features"], lengths, x["pitch"], x["f0"], x["spec"], lengths, x["speaker"]
        )
    gold["training/audio"], gold["training/starts"] = audio.numpy()[:, 0, ::5], starts.numpy()
    for key, value in zip(("z", "z_p", "m_p", "logs_p", "m_q", "logs_q"), latents, strict=True):
        gold[f"training/{key}"] = value.numpy()[..., ::9]


def full_size(gold: dict[str, Any]) -> None:
    from vividcover.voice.rvc.config import CONFIGS

    config = CONFIGS[FULL]
    net = rvc_network(config, True)
    parts(gold, "full", net, config, 40, 8)
    gold["full/sung"] = sung(net, config, True)


def source(gold: dict[str, Any]) -> None:
    from infer.lib.infer_pack.models import SineGen

    config = tiny(*FULL)
    gold["source"] = SineGen(config.rate)(inputs(config, 2, 50)["f0"], config.hop)[0].numpy()[:, ::11, 0]


def critics(gold: dict[str, Any]) -> None:
    from infer.lib.infer_pack import models

    y = torch.from_numpy(np.stack([signal(0.1, 32000, 1), signal(0.1, 32000, 2)]))[:, None]
    for version, name in (("v1", "MultiPeriodDiscriminator"), ("v2", "MultiPeriodDiscriminatorV2")):
        net = filled(getattr(models, name)())
        with torch.no_grad():
            logits, _, maps, _ = net(y, y)
        gold[f"critics_{version}/logits"] = np.concatenate([x.numpy() for x in logits], axis=1)
        gold[f"critics_{version}/maps"] = np.concatenate([m.numpy().ravel()[::997] for critic in maps for m in critic])
        gold[f"critics_{version}/means"] = np.array([[m.abs().mean() for m in critic] for critic in maps][1:])


def layout(content: dict[str, Any]) -> str:
    """Keys, dtypes and shapes of a voice, and the rest as it is."""
    weights = {name: [str(t.dtype), list(t.shape)] for name, t in content["weight"].items()}
    return json.dumps({**{k: v for k, v in content.items() if k != "weight"}, "weight": weights}, default=str)


def files(gold: dict[str, Any]) -> None:
    """Voices written by the two programs, and one of ours in RVC's hands."""
    from dataclasses import replace

    from infer.lib.train.process_ckpt import savee
    from rvc.train.process.extract_model import extract_model

    for program, version, rate, f0 in (
        ("rvc", "v2", 48000, True),
        ("rvc", "v1", 40000, False),
        ("applio", "v2", 32000, True),
    ):
        config = replace(tiny(version, rate), **MICRO)
        net = (rvc_network if program == "rvc" else applio_network)(config, f0)
        data = SimpleNamespace(filter_length=config.n_fft, sampling_rate=rate, sample_rate=rate)
        model = SimpleNamespace(
            inter_channels=config.inter, hidden_channels=config.hidden, filter_channels=config.filter,
            n_heads=config.heads, n_layers=config.layers, kernel_size=config.kernel, p_dropout=0, resblock="1",
            resblock_kernel_sizes=list(config.resblock_kernels),
            resblock_dilation_sizes=[list(d) for d in config.resblock_dilations],
            upsample_rates=list(config.upsample_rates), upsample_initial_channel=config.upsample_initial,
            upsample_kernel_sizes=list(config.upsample_kernels), spk_embed_dim=config.speakers,
            gin_channels=config.gin,
        )  # fmt: skip
        settings = SimpleNamespace(data=data, model=model)
        name, out = f"{program}_{version}_{rate}_{int(f0)}", Path("assets/weights/voice.pth").absolute()
        out.parent.mkdir(parents=True, exist_ok=True)
        if program == "rvc":
            answer = savee(net.state_dict(), f"{rate // 1000}k", int(f0), "voice", 7, version, settings)
            assert answer == "Success.", answer
        else:
            about = {"total_dataset_duration": "00:10:00", "embedder_model": "contentvec", "speakers_id": 1}
            (out.parent / "model_info.json").write_text(json.dumps(about))
            extract_model(net.state_dict(), rate, "voice", str(out), 7, 700, settings, "HiFi-GAN", f0, version)
        read = read_voice_file(out)
        assert (read.config.to_list(), read.f0) == (config.to_list(), f0), read.config
        gold[f"file/{name}"] = np.frombuffer(out.read_bytes(), np.uint8)
        gold[f"layout/{name}"] = layout(torch.load(out, weights_only=True))
        gold[f"file_sung/{name}"] = sung(half(net), config, f0)[:, ::3]
        out.unlink()
        if program == "rvc":
            back(config, f0, net)


def half(net: Any) -> Any:
    """The network with its weights as a float16 file holds them."""
    net.load_state_dict({name: value.half().float() for name, value in net.state_dict().items()})
    return net


def back(config: RvcConfig, f0: bool, theirs: Any) -> None:
    """A voice that we write, in RVC's hands: its loading steps, then the same song."""
    ours = Path("ours.pth")
    write_voice_file(ours, read_voice_file(_saved(config, f0, theirs)), info="7epoch")
    content = torch.load(ours, map_location="cpu")
    content["config"][-3] = content["weight"]["emb_g.weight"].shape[0]
    net = rvc_network(config, f0)
    del net.enc_q
    answer = net.load_state_dict(content["weight"], strict=False)
    assert not answer.missing_keys and not answer.unexpected_keys, answer
    x = inputs(config, 2, FRAMES)
    latent = torch.from_numpy(noise("latent", 2, config.inter, FRAMES))
    source = None
    if f0:
        from vividcover.voice.rvc.vocoder import sine_source

        draws = torch.from_numpy(noise("source", 2, FRAMES * config.hop, 1))[..., 0]
        source = sine_source(x["f0"], config.rate, config.hop, draws)
    voice = synthesizer(read_voice_file(ours))
    pitches = (x["pitch"], x["f0"]) if f0 else (None, None)
    mine = voice.infer(x["features"], *pitches, x["speaker"], latent, source=source).numpy()[:, 0]
    assert np.abs(mine - sung(net.float(), config, f0)).max() < 1e-4


def _saved(config: RvcConfig, f0: bool, net: Any) -> bytes:
    buffer = io.BytesIO()
    weights = {name: value.half() for name, value in net.state_dict().items() if "enc_q" not in name}
    torch.save({"weight": weights, "config": config.to_list(), "f0": int(f0), "version": config.version}, buffer)
    return buffer.getvalue()


def main() -> None:
    rvc, applio = (Path(folder).resolve() for folder in sys.argv[1:3])
    sys.path[:0] = [str(rvc), str(applio)]
    torch.set_num_threads(1)
    sys.modules["torchaudio"] = SimpleNamespace()  # type: ignore[assignment]  # Applio names it for another vocoder
    torch.randn_like, torch.rand = draw_like, draw  # type: ignore[assignment]
    made: dict[str, dict[str, Any]] = {"golden_rvc": {}, "golden_rvc_full": {}, "golden_rvc_files": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(rvc)
        import_module("infer.lib.train.process_ckpt")  # reads its translations from where it is started
        Path(folder, "assets").mkdir()
        Path(folder, "assets", "config.json").write_text('{"model_author": "nobody"}')
        os.chdir(folder)
        extract = import_module("rvc.train.process.extract_model")  # reads that settings file from where it is started
        day = SimpleNamespace(isoformat=lambda: "2026-01-01T00:00:00")  # not the day on which this is run
        extract.datetime = SimpleNamespace(datetime=SimpleNamespace(now=lambda: day))  # type: ignore[attr-defined]
        networks(made["golden_rvc"])
        source(made["golden_rvc"])
        full_size(made["golden_rvc_full"])
        critics(made["golden_rvc_full"])
        files(made["golden_rvc_files"])
        os.chdir(HERE)
    for name, gold in made.items():
        np.savez_compressed(HERE / f"{name}.npz", **gold)
        print(f"{name}.npz: {len(gold)} arrays, {(HERE / f'{name}.npz').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
