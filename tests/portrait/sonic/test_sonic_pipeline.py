"""From a picture and a voice to frames, all parts together: what the published program makes of the same noise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from make_sonic_audio import wave
from make_sonic_pipeline import CASES, RATE, first_noise, scheduler, still
from make_sonic_unet import soft_mask

from sonic_making import tiny_sonic_files
from vividcover.portrait.sonic.config import SonicOptions
from vividcover.portrait.sonic.decode import decode, latents_of
from vividcover.portrait.sonic.features import listen
from vividcover.portrait.sonic.files import SonicFiles
from vividcover.portrait.sonic.opening import Sonic, open_sonic
from vividcover.portrait.sonic.sampler import Look, sample
from vividcover.portrait.sonic.schedule import c_in, c_noise, levels, noised, step
from vividcover.song.pcm import write_pcm
from vividcover.workspace import Silent

GOLD = np.load(Path(__file__).parents[2] / "oracles" / "golden_sonic_pipeline.npz")


@pytest.fixture(scope="module")
def sonic() -> Sonic:
    files = tiny_sonic_files()
    names = ("sonic-unet", "sonic-audio2token", "sonic-audio2bucket", "svd-xt", "whisper-tiny", "rife")
    return open_sonic(SonicFiles(*(files[name] for name in names)), device="cpu")


def played(case: str, sonic: Sonic, folder: Path, **options: Any) -> tuple[Any, Any]:
    """Latents [F, 4, h, w] and frames [F, 3, H, W] in 0..1."""
    seconds, height, width, steps, scale, _ = CASES[case]
    settings = SonicOptions(steps=steps, dynamic_scale=scale, **options)
    rgb, vocals = still(height, width), write_pcm(folder / "voice.wav", wave(seconds, RATE, 1), RATE)
    clip, reporter = sonic.clip(rgb), Silent()
    heard = listen(vocals, sonic, folder / "heard", clip=clip, options=settings, reporter=reporter)
    look = Look(latents_of(rgb, sonic.vae).mode, clip, torch.from_numpy(soft_mask(height, width)))
    noise = torch.from_numpy(first_noise(case, heard.frames, height, width))
    with sample(sonic, look, heard, settings, folder / "drawn", reporter, noise=noise) as store:
        frames = torch.cat(list(decode(store, sonic.vae)))
        return store.read(0, store.frames).numpy(), frames.numpy()


@pytest.mark.parametrize("case", CASES)
def test_latents_and_frames_are_those_of_the_published_program(case: str, sonic: Sonic, tmp_path: Path) -> None:
    latents, frames = played(case, sonic, tmp_path)
    assert len(latents) == GOLD[f"{case}/count"]
    assert np.abs(latents[list(CASES[case][-1])] - GOLD[f"{case}/latents"]).max() < 1e-4
    assert np.abs(frames[:, :, 3::16, 3::16] - GOLD[f"{case}/frames"]).max() < 1e-4


def test_the_golden_values_depend_on_the_voice_and_differ_from_frame_to_frame() -> None:
    """What the comparison above is worth."""
    latents = GOLD["song/latents"]
    assert latents.std() > 0.5
    assert np.abs(np.diff(latents, axis=0)).mean(axis=(1, 2, 3)).min() > 0.1
    assert np.abs(np.diff(GOLD["song/frames"], axis=0)).max(axis=(1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("steps", [5, 25, 50])
def test_levels_and_steps_are_those_of_diffusers_with_the_published_configuration(steps: int) -> None:
    peer = scheduler()
    peer.set_timesteps(steps)
    sigmas = levels(steps)
    assert float((peer.sigmas - sigmas).abs().max()) < 1e-4  # of 700
    assert float((peer.sigmas - sigmas).abs()[1:-1].div(sigmas[1:-1]).max()) < 1e-5
    x = noised(torch.zeros(2, 4, 8, 8), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 700.0)
    for number, told in enumerate(peer.timesteps):
        now, then = float(sigmas[number]), float(sigmas[number + 1])
        v = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(number))
        assert c_noise(now) == pytest.approx(float(told), abs=1e-5)
        assert torch.allclose(peer.scale_model_input(x, told), c_in(now) * x, atol=1e-5)
        theirs, x = peer.step(v, told, x).prev_sample, step(x, v, now, then)
        assert torch.allclose(theirs, x, rtol=1e-5, atol=1e-3 if now > 100 else 1e-5)
