"""Golden values of what RVC (2023, MIT) trains by: its spectrogram, mel bands, losses, and its slicer of recordings.

    python tests/oracles/make_losses.py FOLDER

FOLDER is a checkout of bench/peers/rvc_peer.py's REPOSITORY at its COMMIT. Writes tests/oracles/golden_losses.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "bench" / "peers")]

from seeded import noise, signal  # noqa: E402

Array = np.ndarray[Any, Any]
SOUNDS = {"v2_48000": (48_000, 2048, 128), "v2_40000": (40_000, 2048, 125), "v2_32000": (32_000, 1024, 80)}
SECONDS, EVERY = 0.4, 6  # of each sound; a frame in so many is kept
LAYERS = ((2, 8, 5), (2, 16, 3))  # of one critic
RECORDING, SLICED = 16_000, 48  # Hz; s


def latents() -> list[Array]:
    """z_p, logs_q, m_p, logs_p [2, 6, 9] and the mask [2, 1, 9] of clips of 9 and 5 frames."""
    mask = (np.arange(9)[None, None] < np.array([9, 5])[:, None, None]).astype(np.float32)
    return [0.7 * noise(name, 2, 6, 9) for name in ("z_p", "logs_q", "m_p", "logs_p")] + [mask]


def judged(which: str) -> tuple[list[Array], list[list[Array]]]:
    """Logits and feature maps of two critics."""
    logits = [noise(f"{which}{i}", 2, 7 + i) for i in range(2)]
    return logits, [[noise(f"{which}{i}{j}", *shape) for j, shape in enumerate(LAYERS)] for i in range(2)]


def recording() -> Array:
    """Notes, with silences of every length that the slicer tells apart, at the start and the end too."""
    sound = np.tile(signal(8.0, RECORDING, seed=3), SLICED // 8)
    for start, length in (
        (0, 0.9),
        (3.1, 0.2),
        (6.0, 0.45),
        (11.0, 0.7),
        (17.0, 1.4),
        (19.1, 0.5),
        (30.0, 3.0),
        (46.9, 1.1),
    ):
        sound[int(start * RECORDING) : int((start + length) * RECORDING)] *= 1e-4
    return sound


def main(peer_folder: Path) -> None:
    import rvc_peer
    import torch

    rvc_peer.settle(peer_folder)
    from infer.lib.slicer2 import Slicer
    from infer.lib.train import losses, mel_processing
    from infer.lib.train.mel_processing import mel_spectrogram_torch, spectrogram_torch

    golden: dict[str, Array] = {}
    for name, (rate, size, bands) in SOUNDS.items():
        mel_processing.mel_basis.clear()  # it remembers bands by their highest frequency alone
        wave = torch.from_numpy(signal(SECONDS, rate, seed=1))[None]
        golden[f"spec_{name}"] = spectrogram_torch(wave, size, rate, rate // 100, size)[0, :, ::EVERY].numpy()
        mel = mel_spectrogram_torch(wave, size, bands, rate, rate // 100, size, 0.0, None)
        golden[f"mel_{name}"] = mel[0, :, ::EVERY].numpy()

    def tensors(value: Any) -> Any:
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else [tensors(item) for item in value]

    real, real_maps = tensors(judged("real"))
    fake, fake_maps = tensors(judged("fake"))
    golden["kl"] = losses.kl_loss(*tensors(latents())).numpy()
    golden["critics"] = losses.discriminator_loss(real, fake)[0].numpy()
    golden["adversarial"] = losses.generator_loss(fake)[0].numpy()
    golden["features"] = losses.feature_loss(real_maps, fake_maps).numpy()  # twice the mean distances

    slicer = Slicer(RECORDING, threshold=-42, min_length=1500, min_interval=400, hop_size=15, max_sil_kept=500)
    sound = np.arange(len(recording())) * 1.0
    pieces = _slices(slicer, recording(), sound)
    golden["slices"] = np.array([(piece[0], piece[-1] + 1) for piece in pieces], np.int64)
    np.savez_compressed(HERE / "golden_losses.npz", **golden)


def _slices(slicer: Any, sound: Array, numbers: Array) -> list[Array]:
    """Which samples the slicer keeps: it is given the sound, and cuts the samples' numbers."""
    keep = slicer._apply_slice
    slicer._apply_slice = lambda _, begin, end: keep(numbers, begin, end)
    return list(slicer.slice(sound))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
