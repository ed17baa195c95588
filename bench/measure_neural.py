"""One job of bench/voice.py in a process of its own: conversion, training step or fidelity, by vividcover.

    python bench/measure_neural.py JOB.json       the last line is the result

The jobs' files (weights, song, batch) are the peer's too; `rvc_peer.spent` measures both.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from rvc_peer import fill, spent

from vividcover.memory import settle
from vividcover.song.pcm import PcmWriter, read_pcm, write_pcm
from vividcover.voice.rvc.convert import Converter, NeuralConversion
from vividcover.workspace import Silent


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Random weights for both: a voice, HuBERT, RMVPE (the peer makes that one), an index, a song, a training batch."""
    from vividcover.voice.rvc.checkpoint import write_voice_file
    from vividcover.voice.rvc.config import CONFIGS
    from vividcover.voice.rvc.index import build
    from vividcover.voice.rvc.network import Synthesizer

    folder = Path(job["folder"])
    (folder / "voice").mkdir(parents=True)
    voice = Synthesizer(CONFIGS["v2", 48_000], posterior=False)
    fill(voice)
    write_voice_file(folder / "voice" / "bench.pth", voice)
    features = np.random.default_rng(0).standard_normal((job["vectors"], 768), dtype=np.float32)
    index = build(features, folder / "voice", name="bench", version="v2")
    hubert(folder / "hubert")
    song(folder, job["seconds"])
    np.savez(folder / "batch.npz", **batch(job["batch"], job["frames"]))
    return {"index": str(index), "config": voice.config.to_list()}


def hubert(folder: Path) -> None:
    """HuBERT base in transformers' layout, which both read."""
    from transformers import HubertConfig, HubertModel

    net = HubertModel(HubertConfig())
    fill(net)
    net.save_pretrained(folder)


def song(folder: Path, seconds: float) -> None:
    """song.npy (16 kHz, for the peer) and song.wav (44.1 kHz, for us): a test voice; rests.wav: 40 % of it silence."""
    import soxr
    from seeded import signal

    mono = np.tile(signal(min(seconds, 20), 16_000), -(-int(seconds) // 20))
    np.save(folder / "song.npy", mono)
    full = soxr.resample(mono, 16_000, 44_100, quality="VHQ")
    write_pcm(folder / "song.wav", np.stack([full, full]))
    rests = full.copy()
    beat = 44_100 * max(int(seconds / 2), 1)
    for start in range(0, len(rests), beat):
        rests[start + int(0.6 * beat) : start + beat] = 0
    write_pcm(folder / "rests.wav", np.stack([rests, rests]))


def batch(count: int, frames: int) -> dict[str, Any]:
    """`count` clips of a training, every one of full length."""
    from vividcover.voice.rvc.mel import spectrogram

    random = np.random.default_rng(1)
    wave = random.uniform(-0.5, 0.5, (count, frames * 480)).astype(np.float32)
    spec = spectrogram(torch.from_numpy(wave), 2048, 480).numpy()
    lengths = np.full(count, frames)
    f0 = random.uniform(100, 400, (count, frames)).astype(np.float32)
    return {
        "phone": random.standard_normal((count, frames, 768), dtype=np.float32), "phone_lengths": lengths,
        "pitch": random.integers(1, 255, (count, frames)), "pitchf": f0, "spec": spec, "spec_lengths": lengths,
        "wave": wave[:, None], "wave_lengths": lengths * 480, "sid": np.zeros(count, np.int64),
    }  # fmt: skip


def infer(job: dict[str, Any]) -> dict[str, Any]:
    """A song through a loaded voice, after a short one to warm up. Only singing is counted, as for the peer."""
    converter = _converter(job)
    folder, cost = Path(job["folder"]), {}
    short = read_pcm(folder / job["song"])[0][:, : round(44_100 * job["warm_s"])]
    settings = NeuralConversion(
        index_rate=job["index_rate"], rms_mix_rate=job["rms_mix_rate"], protect=job["protect"],
        parity=job.get("parity", False), noise_scale=job.get("noise_scale", 0.66666), seed=job.get("seed", 0),
    )  # fmt: skip
    write_pcm(folder / "short.wav", short)
    converter.convert(folder / "short.wav", folder / "short-out.wav", settings)
    with spent(cost, job["device"]):
        report = converter.convert(folder / job["song"], folder / job["out"], settings, reporter=Silent())
    samples, rate = read_pcm(folder / job["song"])
    return {**cost, "audio_s": samples.shape[1] / rate, "sung_s": report["sung_s"], "dtype": report["dtype"]}


def parity(job: dict[str, Any]) -> dict[str, Any]:
    """The largest difference from the peer's samples, with everything random set to zero."""
    from vividcover.voice.rvc import parity
    from vividcover.voice.rvc.pieces import high_passed
    from vividcover.voice.rvc.pitch import Tracker

    converter = _converter(job)
    audio = high_passed(np.load(Path(job["folder"]) / "song.npy"))
    f0 = Tracker("rmvpe", weights=converter.weights, parity=True)(parity.padded(audio).astype(np.float32))
    settings = NeuralConversion(
        index_rate=job["index_rate"], rms_mix_rate=job["rms_mix_rate"], protect=job["protect"], noise_scale=0,
        parity=True,
    )  # fmt: skip
    ours, theirs = parity.sing(converter.nets, audio, f0, settings), np.load(job["theirs"]) / 32_768
    assert len(ours) == len(theirs)
    return {
        "parity_difference": round(float(np.abs(ours - theirs).max()), 7),
        "parity_relative": round(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)), 7),
    }


def memory(job: dict[str, Any]) -> dict[str, Any]:
    """The peak of this process, MB, while it sings so many seconds."""
    settle()
    converter, folder = _converter(job), Path(job["folder"])
    loop = read_pcm(folder / "song.wav")[0]
    with PcmWriter(folder / "long.wav") as writer:
        while writer.frames < job["long_s"] * 44_100:
            writer.write(loop)
    cost: dict[str, float] = {}
    with spent(cost, job["device"]):
        converter.convert(folder / "long.wav", folder / "long-out.wav")
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return {**cost, "seconds": job["long_s"], "peak_mb": round(int(found[1]) / 1024) if found else None}


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Steps over the given batch, after one to warm up."""
    from vividcover.voice.rvc.config import CONFIGS
    from vividcover.voice.rvc.state import State
    from vividcover.voice.rvc.steps import Batch, train_step
    from vividcover.voice.rvc.train import training_dtype

    config, device = CONFIGS["v2", 48_000], torch.device(job["device"])
    dtype = training_dtype(device, job["dtype"])
    state = State.fresh(config, device=device, dtype=dtype)
    given = {key: torch.from_numpy(value) for key, value in dict(np.load(Path(job["folder"]) / "batch.npz")).items()}
    count, frames, _ = given["phone"].shape
    clips = Batch(
        given["phone"], given["phone_lengths"], given["pitch"], given["pitchf"], given["spec"], given["wave"],
        given["sid"], torch.randn(count, config.inter, frames), torch.zeros(count, dtype=torch.long),
        torch.randn(count, config.segment),
    ).to(device)  # fmt: skip
    for _ in range(job["warm"]):
        train_step(state, clips)
    cost: dict[str, float] = {}
    with spent(cost, job["device"]):
        for _ in range(job["steps"]):
            losses = train_step(state, clips).stacked()
    assert torch.isfinite(losses).all()
    return {**cost, "steps": job["steps"], "dtype": str(dtype).removeprefix("torch.")}


def _converter(job: dict[str, Any]) -> Converter:
    folder = Path(job["folder"])
    files = {"contentvec": folder / "hubert", "rmvpe": folder / "rmvpe.pt"}
    return Converter(folder / "voice", weights=files.__getitem__, device=job["device"], dtype=job["dtype"])


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job.get("threads", 1))
    with contextlib.redirect_stdout(sys.stderr):
        kinds = {"prepare": prepare, "infer": infer, "train": train, "memory": memory, "parity": parity}
        result = kinds[job["kind"]](job)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
