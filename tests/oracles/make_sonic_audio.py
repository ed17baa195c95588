"""What Sonic hears, for weights that follow from names: `golden_sonic_audio.npz`.

    python tests/oracles/make_sonic_audio.py SONIC      # a checkout of github.com/jixiaozhong/Sonic

in an environment with torch, diffusers, transformers, librosa, soundfile, omegaconf, einops and OpenCV. The published
program's own `get_audio_feature` reads a file, and its own `test` makes tokens and buckets of it; where it would begin
to draw, what it was about to draw with is taken. None of its code is kept here, only what it says.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from seeded import fill, noise, shapes_of, signal

from vividcover.portrait.sonic.config import FULL_AUDIO, TINY_AUDIO, AudioConfig

HERE = Path(__file__).parent
CASES = {  # name: sizes, seconds, rate in Hz, channels, frames of which tokens are kept, every which number of them
    "full": (FULL_AUDIO, 2.13, 22_050, 1, (0, 1, 13, 24, 25), 61),
    "tiny": (TINY_AUDIO, 2.37, 44_100, 2, (0, 1, 5, 20, 28), 1),
    "plain": (TINY_AUDIO, 3.0, 16_000, 1, (0, 1, 36), 1),  # no resampling, an odd number of half frames
    "short": (TINY_AUDIO, 0.55, 48_000, 2, (0, 1, 5), 1),  # below 0.52 s the published program fails
    "long": (TINY_AUDIO, 60.4, 16_000, 1, (0, 374, 375, 376, 380, 700, 749, 750, 754), 1),
}


def wave(seconds: float, rate: int, channels: int) -> Any:
    """[channels, samples], as the test makes it too."""
    return np.stack([signal(seconds, rate, seed=channel) for channel in range(channels)])


def filled(net: Any, prefix: str = "") -> Any:
    """The net with values that follow from names, which may have a prefix."""
    values = fill({prefix + name: shape for name, shape in shapes_of(net).items()})
    net.load_state_dict({name.removeprefix(prefix): torch.from_numpy(value) for name, value in values.items()})
    return net.eval().requires_grad_(False)


def nets(c: AudioConfig) -> tuple[Any, Any, Any]:
    """whisper, audio2token, audio2bucket of the published program."""
    from src.models.audio_adapter.audio_proj import AudioProjModel
    from src.models.audio_adapter.audio_to_bucket import Audio2bucketModel
    from transformers import WhisperConfig, WhisperModel

    settings = WhisperConfig(
        num_mel_bins=c.mels, d_model=c.width, encoder_layers=c.layers, encoder_attention_heads=c.heads,
        encoder_ffn_dim=c.inner, max_source_positions=c.positions, decoder_layers=1, vocab_size=60,
        decoder_attention_heads=c.heads, decoder_ffn_dim=c.inner, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    token = AudioProjModel(
        seq_len=10, blocks=c.layers + 1, channels=c.width, intermediate_dim=c.hidden, output_dim=c.context,
        context_tokens=c.tokens,
    )  # fmt: skip
    bucket = Audio2bucketModel(
        seq_len=50, blocks=1, channels=c.width, clip_channels=c.context, intermediate_dim=c.hidden, output_dim=1,
        context_tokens=2,
    )  # fmt: skip
    return filled(WhisperModel(settings), "model."), filled(token), filled(bucket)


def heard(path: Path, c: AudioConfig, clip: Any) -> Any:
    """What the published program gives to its pipeline: (mel, tokens [F, T, C], silent [T, C], buckets [F, 2])."""
    import sonic
    from src.dataset.test_preprocess import get_audio_feature
    from transformers import WhisperFeatureExtractor

    taken: dict[str, Any] = {}

    class Pipe:
        device = "cpu"

        def __call__(self, *given: Any, **more: Any) -> Any:
            taken["tokens"], taken["silent"], taken["buckets"] = given[3], given[4], given[5]
            return SimpleNamespace(frames=torch.zeros(1))

    features, length = get_audio_feature(str(path), WhisperFeatureExtractor(feature_size=c.mels))
    picture = torch.zeros(3, 8, 8)
    batch = {
        "ref_img": picture, "clip_images": picture, "face_mask": picture, "audio_feature": features[0],
        "audio_len": min(10_000, length),
    }  # fmt: skip
    config = sonic.OmegaConf.load(sonic.BASE_DIR + "/config/inference/sonic.yaml")
    whisper, token, bucket = nets(c)
    sonic.tqdm = quiet
    sonic.test(Pipe(), config, whisper, token, bucket, lambda _: SimpleNamespace(image_embeds=clip), 8, 8, batch)
    stacked = {name: torch.stack(entries).numpy() for name, entries in taken.items()}
    return features[0].numpy(), stacked["tokens"], stacked["silent"], stacked["buckets"]


def quiet(entries: Any, **_: Any) -> Iterator[Any]:
    yield from entries


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    import diffusers  # noqa: F401  (looks for torchvision, and must not find what stands for it below)
    import soundfile
    import transformers  # noqa: F401

    for name in ("torchvision", "torchvision.transforms", "imageio"):  # for pictures, of which there are none here
        sys.modules[name] = SimpleNamespace(transforms=SimpleNamespace())  # type: ignore[assignment]
    torch.set_num_threads(1)
    gold: dict[str, Any] = {}
    for name, (c, seconds, rate, channels, frames, every) in CASES.items():
        clip = torch.from_numpy(noise("clip", 1, c.context))
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            path = Path(folder, "voice.wav")
            soundfile.write(path, wave(seconds, rate, channels).T, rate, subtype="FLOAT")
            mel, tokens, silent, buckets = heard(path, c, clip)
        print(name, asdict(c), mel.shape, tokens.shape, silent.shape, buckets.shape)
        gold |= {
            f"{name}/count": len(tokens), f"{name}/frames": list(frames), f"{name}/mel": mel[::7, ::97],
            f"{name}/tokens": tokens[list(frames)].reshape(len(frames), -1)[:, ::every],
            f"{name}/silent": silent[0].reshape(-1)[::every], f"{name}/buckets": buckets.reshape(-1, 2),
        }  # fmt: skip
    np.savez_compressed(HERE / "golden_sonic_audio.npz", **gold)
    print((HERE / "golden_sonic_audio.npz").stat().st_size)


if __name__ == "__main__":
    main()
