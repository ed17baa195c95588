"""The peer of bench/voice.py: RVC's published inference and training code (MIT), as it stands in a folder of its own.

    python bench/peers/rvc_peer.py FOLDER JOB.json        does one job in this process; the last line is its result

The peer wants packages that do not install any more (fairseq, torchaudio, old librosa). What little it uses of them is
given here: librosa's loudness and mel bands, HuBERT from transformers in fairseq's clothes. Everything that is measured
is the peer's own: its pipeline, its networks, its training step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = "https://github.com/zsxkib/voice-cloning-training"  # RVC of 2023, as replicate/train-rvc-model runs it
COMMIT = "1aea4a87d9647ae36b86be7ba87bf1f569079475"
SECONDS_FP32 = {"x_pad": 1, "x_query": 6, "x_center": 38, "x_max": 41}  # the peer's own configuration, float32
SECONDS_HALF = {"x_pad": 3, "x_query": 10, "x_center": 60, "x_max": 65}  # and on a GPU with half precision


# --- its packages ---------------------------------------------------------------------------------------------------


def settle(folder: Path) -> None:
    """Makes `import infer…` find the peer in `folder`, with stand-ins for what it imports and is not there."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(folder))
    import transformers  # noqa: F401  (asks whether librosa is there: before it seems to be)

    try:
        import librosa  # noqa: F401
    except ImportError:
        sys.modules.update(_librosa())
    for name in ("parselmouth", "torchcrepe", "pyworld"):  # trackers that are not run here
        sys.modules.setdefault(name, types.ModuleType(name))


def _librosa() -> dict[str, types.ModuleType]:
    """The functions of librosa 0.9 that the peer calls, after librosa's documentation."""
    from vividcover.voice.rvc.mel import bands

    def rms(y: Any, frame_length: int, hop_length: int) -> Any:
        wave = np.pad(np.asarray(y), frame_length // 2)
        frames = np.lib.stride_tricks.sliding_window_view(wave, frame_length)[::hop_length]
        return np.sqrt(np.mean(np.abs(frames) ** 2, axis=-1))[None]

    def mel(
        *, sr: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None, htk: bool = False
    ) -> Any:
        return bands(sr, n_fft, n_mels, fmin, fmax or 0.0, htk).numpy()

    names = ("librosa", "librosa.feature", "librosa.filters", "librosa.util")
    made: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    made["librosa.feature"].rms, made["librosa.filters"].mel = rms, mel
    util = made["librosa.util"]
    util.normalize = util.pad_center = util.tiny = None  # named in imports, not called in what is run here
    for name in names[1:]:
        setattr(made["librosa"], name.split(".")[1], made[name])
    return made


class Hubert:
    """transformers' HuBERT with the two methods of fairseq's that the peer calls."""

    def __init__(self, folder: Path | None = None, config: Any = None) -> None:
        from transformers import HubertModel

        self.net = HubertModel.from_pretrained(folder) if folder else HubertModel(config)
        self.net.eval()
        self.final_proj = torch.nn.Linear(self.net.config.hidden_size, 256)

    def extract_features(self, source: Any, padding_mask: Any, output_layer: int) -> tuple[Any]:
        heard = self.net(source, output_hidden_states=True)
        return (heard.hidden_states[min(output_layer, len(heard.hidden_states) - 1)],)  # small nets have fewer


def pipeline(rate: int, device: str, is_half: bool = False, **seconds: int) -> Any:
    """The peer's `Pipeline`."""
    from infer.modules.vc.pipeline import Pipeline

    seconds = {**(SECONDS_HALF if is_half else SECONDS_FP32), **seconds}
    return Pipeline(rate, types.SimpleNamespace(device=device, is_half=is_half, **seconds))


def synthesizer(config: list[Any], version: str = "v2", training: bool = False) -> Any:
    """The peer's network for singing with a pitch."""
    from infer.lib.infer_pack import models

    kind = models.SynthesizerTrnMs768NSFsid if version == "v2" else models.SynthesizerTrnMs256NSFsid
    net = kind(*config, is_half=False)
    if not training:
        del net.enc_q
    return net


def fill(net: Any, seed: int = 0) -> None:
    """Weights by name, the same as in our network."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "oracles"))
    import seeded

    values = seeded.fill(seeded.shapes_of(net), seed)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})


# --- measuring ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def spent(cost: dict[str, float], device: str) -> Iterator[None]:
    """CPU-seconds of this process and wall seconds, into `cost`."""
    wait(device)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    wait(device)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cost["cpu_s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cost["wall_s"] = time.perf_counter() - began


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rmvpe(job: dict[str, Any]) -> dict[str, Any]:
    """The pitch network with random weights, as a file that both read."""
    from infer.lib.rmvpe import E2E

    net = E2E(4, 1, (2, 2))
    fill(net)
    torch.save(net.state_dict(), job["out"])
    return {}


def infer(job: dict[str, Any]) -> dict[str, Any]:
    """A song through the peer's pipeline, after a short one to warm up."""
    device, half = job["device"], job["half"]
    line = pipeline(job["rate"], device, half)
    voice = synthesizer(job["config"])
    voice.load_state_dict(torch.load(job["voice"], weights_only=True)["weight"], strict=False)
    voice.eval().to(device)
    hubert = Hubert(Path(job["hubert"]))
    hubert.net.to(device)
    if half:
        voice.half(), hubert.net.half()
    os.environ["rmvpe_root"] = job["rmvpe_root"]  # noqa: SIM112  (the peer spells it so)
    audio = np.load(job["audio"]).astype(np.float32)
    if job.get("quiet"):  # nothing random, so that results can be laid side by side
        torch.randn_like = lambda like, **more: torch.zeros_like(like)
    cost: dict[str, float] = {}
    stages = [0.0, 0.0, 0.0]

    def run(samples: Any) -> Any:
        return line.pipeline(
            hubert, voice, 0, samples, "", stages, 0, "rmvpe", job["index"], job["index_rate"], 1, 3, job["rate"], 0,
            job["rms_mix_rate"], "v2", job["protect"],
        )  # fmt: skip

    run(audio[: round(16_000 * job["warm_s"])])
    with spent(cost, device):
        sung = run(audio)
    np.save(job["out"], sung)
    return {**cost, "audio_s": len(audio) / 16_000, "samples": len(sung)}


def train(job: dict[str, Any]) -> dict[str, Any]:
    """The peer's own `train_and_evaluate` over given batches, after one to warm up."""
    work = Path(job["work"])
    (work / "logs" / "bench").mkdir(parents=True, exist_ok=True)
    if not (work / "i18n").exists():
        (work / "i18n").symlink_to(Path(job["peer"]) / "i18n")  # read from wherever it runs
    config = json.loads((Path(job["peer"]) / job["config_file"]).read_text())
    config["train"]["fp16_run"] = job["half"]
    config["model"] |= job.get("smaller", {})
    config["train"] |= job.get("segment", {})
    (work / "logs" / "bench" / "config.json").write_text(json.dumps(config))
    os.chdir(work)
    sys.argv = [
        "train.py", "-se", "1000", "-te", "1000", "-bs", str(job["batch"]), "-e", "bench", "-sr", job["rate_name"],
        "-v", "v2", "-f0", "1", "-l", "1", "-c", "0",
    ]  # fmt: skip
    _tensorboard()
    from infer.modules.train import train as peer

    hps, device = peer.hps, job["device"]
    voice = peer.RVC_Model_f0(
        hps.data.filter_length // 2 + 1, hps.train.segment_size // hps.data.hop_length, **hps.model,
        is_half=hps.train.fp16_run, sr=hps.sample_rate,
    )  # fmt: skip
    critics = peer.MultiPeriodDiscriminator(hps.model.use_spectral_norm)
    nets = [net.to(device).train() for net in (voice, critics)]
    optimizers = [
        torch.optim.AdamW(net.parameters(), hps.train.learning_rate, betas=hps.train.betas, eps=hps.train.eps)
        for net in nets
    ]
    scaler = peer.GradScaler(enabled=hps.train.fp16_run)
    batch = dict(np.load(job["batch_file"]))
    order = ("phone", "phone_lengths", "pitch", "pitchf", "spec", "spec_lengths", "wave", "wave_lengths", "sid")
    info = tuple(torch.from_numpy(batch[key]) for key in order)

    class Loader(list):  # type: ignore[type-arg]
        batch_sampler = types.SimpleNamespace(set_epoch=lambda epoch: None)

    def steps(count: int) -> None:
        said = logging.getLogger("peer")
        peer.global_step = 1  # at 0 it would draw pictures
        peer.train_and_evaluate(0, 1, hps, nets, optimizers, [], scaler, [Loader([info] * count), None], said, None, [])

    steps(job["warm"])
    cost: dict[str, float] = {}
    with spent(cost, device):
        steps(job["steps"])
    return {**cost, "steps": job["steps"]}


def _tensorboard() -> None:
    """The peer imports a writer that this run never calls."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        made: Any = types.ModuleType("torch.utils.tensorboard")
        made.SummaryWriter = None
        sys.modules["torch.utils.tensorboard"] = made


def main() -> int:
    folder, job = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(job.get("threads", 1))
    settle(folder)
    job["peer"] = str(folder.resolve())
    with contextlib.redirect_stdout(sys.stderr):
        result = {"infer": infer, "train": train, "rmvpe": rmvpe}[job["kind"]](job)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
