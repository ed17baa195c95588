"""Golden values of HTDemucs, from the published program (PyPI: demucs 4.1, installed with --no-deps).

    python -m venv v && v/bin/pip install torch numpy einops tqdm && v/bin/pip install --no-deps demucs==4.1.0
    v/bin/python tests/oracles/make_htdemucs.py

Writes golden_htdemucs.npz: answers of tiny networks filled by name (`seeded.py`), and of the program's own cutting; and
a digest of the names and shapes of the full-size network.
"""

import hashlib
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from seeded import fill, shapes_of, signal

TINY = {
    "sources": ["drums", "vocals", "other"], "audio_channels": 2, "samplerate": 8000, "segment": Fraction(1, 2),
    "channels": 8, "nfft": 1024, "depth": 3, "t_layers": 3, "t_heads": 2, "dconv_mode": 3, "bottom_channels": 24,
    "dconv_comp": 4, "t_hidden_scale": 2.0, "multi_freqs": [],
}  # fmt: skip
SIX = TINY | {"bottom_channels": 0, "dconv_mode": 1, "t_layers": 2, "t_cross_first": True}
FULL = {
    "sources": ["drums", "bass", "other", "vocals"], "audio_channels": 2, "samplerate": 44100,
    "segment": Fraction(39, 5), "channels": 48, "nfft": 4096, "depth": 4, "t_layers": 5, "t_heads": 8,
    "dconv_mode": 3, "bottom_channels": 512, "multi_freqs": [],
}  # fmt: skip
FULL_SIX = FULL | {"sources": ["drums", "bass", "other", "vocals", "guitar", "piano"], "bottom_channels": 0}
STRIDE = 7  # of the samples that are kept, to keep the file small
OFFSET = 5000 // 2  # of the program's random shift, in its 4000 samples at 8 kHz


def digest(shapes: dict) -> str:
    return hashlib.sha256("\n".join(f"{k} {list(v)}" for k, v in sorted(shapes.items())).encode()).hexdigest()


def mixture(samples: int) -> np.ndarray:
    """Two channels that differ, [2, samples]."""
    a = signal(samples / 8000, 8000, 1)[:samples]
    b = signal(samples / 8000, 8000, 2)[:samples]
    return np.stack([a, 0.6 * a + 0.4 * b]).astype(np.float32)


def main() -> None:
    from demucs.apply import BagOfModels, apply_model
    from demucs.htdemucs import HTDemucs

    def tiny(kwargs: dict, seed: int) -> HTDemucs:
        net = HTDemucs(**kwargs).eval()
        net.load_state_dict({k: torch.from_numpy(v) for k, v in fill(shapes_of(net), seed).items()})
        return net

    torch.set_num_threads(1)
    out = {}
    nets = [tiny(TINY, 1), tiny(TINY, 2)]
    with torch.no_grad():
        mix = torch.from_numpy(mixture(4000))[None]
        out["tiny"] = nets[0](mix)[0].numpy()
        out["short"] = nets[0](mix[..., :2500])[0].numpy()
        out["six"] = tiny(SIX, 1)(mix)[0].numpy()
        song = torch.from_numpy(mixture(11_000))  # nearly three chunks
        ref = song.mean(0)
        mean, std = ref.mean(), ref.std() + 1e-8
        for name, model, shifts in (
            ("song", nets[0], 0), ("shifted", nets[0], 1), ("bag", BagOfModels(nets, [[1, 0, 0.5], [0, 1, 1.5]]), 0),
        ):  # fmt: skip
            random.randint = lambda low, high: OFFSET  # the program's own draw, made known
            answer = apply_model(model, ((song - mean) / std)[None], shifts=shifts, overlap=0.25)
            out[name] = (answer * std + mean)[0].numpy()
    for name, kwargs in (("full", FULL), ("full_six", FULL_SIX)):
        shapes = shapes_of(HTDemucs(**kwargs))
        out[f"{name}_digest"] = np.array(digest(shapes))
        out[f"{name}_count"] = np.array([len(shapes), sum(int(np.prod(s)) for s in shapes.values())])
    np.savez_compressed(
        Path(__file__).with_name("golden_htdemucs.npz"),
        **{k: v[..., ::STRIDE] if v.ndim == 3 else v for k, v in out.items()},
    )
    print({k: (v.shape, float(np.abs(v).max()) if v.dtype == np.float32 else v) for k, v in out.items()})


if __name__ == "__main__":
    main()
