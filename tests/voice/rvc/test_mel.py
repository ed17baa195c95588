"""Mel bands and spectrograms, beside what librosa gives for the same arguments."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vividcover.voice.rvc import mel

GOLDEN = np.load(Path(__file__).parents[2] / "oracles" / "golden_pitch_mel.npz")


@pytest.mark.parametrize("name", list(GOLDEN))
def test_the_bands_are_librosas(name):
    rate, n_fft, mels, low, high, htk = (int(part) for part in name.split("_"))
    bands = mel.bands(rate, n_fft, mels, low, high, bool(htk))
    assert bands.shape == (mels, n_fft // 2 + 1)
    np.testing.assert_allclose(bands[[0, 1, mels // 2, mels - 1]], GOLDEN[name], atol=1e-8)


def test_mel_and_hertz_are_inverse():
    hertz = np.array([0.0, 50, 999, 1000, 1001, 8000, 24000])
    for htk in (False, True):
        np.testing.assert_allclose(mel.hertz_of(mel.mel_of(hertz, htk), htk), hertz, atol=1e-6)


@pytest.mark.parametrize(("n_fft", "hop", "samples"), [(2048, 480, 17280), (2048, 400, 12800), (1024, 320, 12800)])
def test_a_training_spectrogram_has_a_frame_for_every_hop(n_fft, hop, samples):
    wave = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    spec = mel.spectrogram(wave, n_fft, hop)
    assert spec.shape == (2, n_fft // 2 + 1, samples // hop)
    middle, window = samples // hop // 2, torch.hann_window(n_fft)
    at = middle * hop - (n_fft - hop) // 2
    by_hand = torch.fft.rfft(wave[0, at : at + n_fft] * window).abs()
    np.testing.assert_allclose(spec[0, :, middle], torch.sqrt(by_hand**2 + 1e-6), rtol=1e-4, atol=1e-4)


def test_a_clip_shorter_than_the_window_still_has_its_frames():
    assert mel.spectrogram(torch.randn(1, 480), 2048, 480).shape == (1, 1025, 1)


def test_silence_is_the_floor():
    spec = mel.spectrogram(torch.zeros(1, 4800), 2048, 480)
    quiet = mel.log_mel(spec, mel.bands(48000, 2048, 128))
    assert quiet.shape == (1, 128, 10) and quiet.isfinite().all()
    assert mel.frames_of(torch.zeros(4800), mel.RMVPE).max() == pytest.approx(np.log(1e-5))


@pytest.mark.parametrize("front", [mel.RMVPE, mel.FCPE])
def test_long_sound_gives_the_same_frames_as_at_once(front, monkeypatch):
    sound = torch.randn(16000, generator=torch.Generator().manual_seed(1))
    whole = mel.frames_of(sound, front)
    assert whole.shape == (101, 128)
    monkeypatch.setattr(mel, "BLOCK", 7)
    np.testing.assert_allclose(mel.frames_of(sound, front), whole, atol=1e-5)
