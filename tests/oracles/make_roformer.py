"""Golden values of the two RoFormers, from the public code (MIT) that nomadkaraoke/python-audio-separator carries.

    git clone https://github.com/nomadkaraoke/python-audio-separator peer
    pip install torch numpy einops rotary-embedding-torch beartype librosa
    python tests/oracles/make_roformer.py peer/audio_separator/separator/uvr_lib_v5

Writes golden_roformer.npz: answers of tiny networks filled by name (`seeded.py`), the bins of the mel bands, and
digests of the names and shapes of the full-size networks.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from seeded import fill, shapes_of, signal

STRIDE = 7  # of the samples that are kept, to keep the file small
COMMON = {
    "stereo": True, "time_transformer_depth": 1, "freq_transformer_depth": 1, "mask_estimator_depth": 2,
    "flash_attn": False, "attn_dropout": 0.0, "ff_dropout": 0.0,
}  # fmt: skip
SMALL = COMMON | {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "stft_n_fft": 512, "stft_win_length": 512}
BS = SMALL | {"freqs_per_bands": (2,) * 20 + (8,) * 10 + (32,) * 4 + (9,), "stft_hop_length": 100, "num_stems": 2}
MEL = SMALL | {"num_bands": 20, "sample_rate": 8000, "stft_hop_length": 128, "freq_transformer_depth": 2}
FULL = {
    "mel": COMMON | {"dim": 384, "depth": 6, "num_bands": 60, "stft_hop_length": 441},
    "bs": COMMON | {"dim": 512, "depth": 12, "stft_hop_length": 441},
    "bs_dereverb": COMMON | {"dim": 384, "depth": 10, "stft_hop_length": 512},
}
SAMPLES = {"bs": 6000, "mel": 6016}  # of hops, as every published chunk


def digest(shapes: dict) -> str:
    return hashlib.sha256("\n".join(f"{k} {list(v)}" for k, v in sorted(shapes.items())).encode()).hexdigest()


def mixture(samples: int) -> np.ndarray:
    """Two channels that differ, [2, samples]."""
    a = signal(samples / 8000, 8000, 1)[:samples]
    b = signal(samples / 8000, 8000, 2)[:samples]
    return np.stack([a, 0.6 * a + 0.4 * b]).astype(np.float32)


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    from roformer.bs_roformer import BSRoformer
    from roformer.mel_band_roformer import MelBandRoformer

    torch.set_num_threads(1)
    out = {}
    for name, kind, kwargs in (("bs", BSRoformer, BS), ("mel", MelBandRoformer, MEL)):
        net = kind(**kwargs).eval()
        values = fill(shapes_of(net), 1)
        values |= {key: value for key, value in net.state_dict().items() if key.endswith("rotary_embed.freqs")}
        net.load_state_dict({key: torch.as_tensor(value) for key, value in values.items()})
        with torch.no_grad():
            answer = net(torch.from_numpy(mixture(SAMPLES[name]))[None]).numpy()
        out[name] = answer.reshape(-1, 2, answer.shape[-1])[..., ::STRIDE]
    for name, kwargs in FULL.items():
        kind = MelBandRoformer if "num_bands" in kwargs else BSRoformer
        net = kind(**kwargs)
        shapes = shapes_of(net)
        out[f"{name}_digest"] = np.array(digest(shapes))
        out[f"{name}_count"] = np.array([len(shapes), sum(int(np.prod(s)) for s in shapes.values())])
        if name == "mel":
            out["mel_bins"] = net.num_freqs_per_band.numpy()
            out["mel_first"] = net.freq_indices[::2].numpy() // 2
    np.savez_compressed(Path(__file__).with_name("golden_roformer.npz"), **out)
    print({k: (v.shape, float(np.abs(v).max()) if v.dtype == np.float32 else v) for k, v in out.items()})


if __name__ == "__main__":
    main(sys.argv[1])
