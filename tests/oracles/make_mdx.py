"""Golden values of MDX separation as AICoverGen does it.

    python tests/oracles/make_mdx.py FOLDER        # of github.com/SociallyIneptWeeb/AICoverGen, with src/mdx.py

Runs the published `run_mdx`, whole, on a test song with a tiny random net. What it reads and writes files with
(librosa, soundfile, a progress bar) is replaced by stand-ins that hand over arrays, so that nothing is rounded to 16
bits, and it is told that there is a large GPU, which it asks for, while it computes on the CPU. Needs torch and
onnxruntime.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import tiny_mdx
from seeded import signal

HERE = Path(__file__).parent
RATE = 44_100
EVERY = 41  # of the samples, one in so many is kept
CASES = {  # name → (seconds, denoise, GB of the GPU that the published program believes in)
    "halves": (3.3, False, 16),
    "denoised": (3.3, True, 16),
    "whole": (2.2, False, 4),
    "exact": (2 * 13_312 / RATE, False, 4),  # as long as two chunks, so that a third is all padding
}


def song(seconds: float) -> np.ndarray[Any, Any]:
    """[2, N], peak 0.8 on the right: a level that the published program's second stem does not survive."""
    left, right = signal(seconds, RATE, 1), signal(seconds, RATE, 2)
    return np.stack([left, 1.6 * right])


def separated(mdx: ModuleType, seconds: float, denoise: bool, memory: float) -> dict[str, np.ndarray[Any, Any]]:
    wave, written = song(seconds), []
    mdx.librosa.load = lambda *_, **__: (wave.copy(), RATE)
    mdx.sf.write = lambda _, samples, __: written.append(np.asarray(samples).T)
    mdx.torch.cuda.get_device_properties = lambda _: SimpleNamespace(total_memory=memory * 1024**3)
    with tempfile.TemporaryDirectory() as folder:
        file = tiny_mdx.make(Path(folder) / "tiny.onnx")
        small = tiny_mdx.SMALL
        settings = {
            "mdx_dim_f_set": small["dim_f"], "mdx_dim_t_set": 4, "mdx_n_fft_scale_set": small["n_fft"],
            "primary_stem": "Vocals", "compensate": small["compensate"],
        }  # fmt: skip
        params = {mdx.MDX.get_hash(str(file)): settings}
        mdx.run_mdx(params, folder, str(file), "song.wav", denoise=denoise)
    return {"main": written[0].astype(np.float32), "rest": written[1].astype(np.float32)}


def main(folder: Path) -> None:
    bar = SimpleNamespace(update=lambda *_: None, close=lambda: None, total=0)
    for name, content in {"librosa": {}, "soundfile": {}, "tqdm": {"tqdm": lambda **_: bar}}.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    sys.path.insert(0, str(folder / "src"))
    import mdx

    mdx.MDX.__init__.__defaults__ = (-1,)  # the CPU
    found = {}
    for name, case in CASES.items():
        stems = separated(mdx, *case)
        print(name, {stem: (values.shape, round(float(np.abs(values).max()), 3)) for stem, values in stems.items()})
        for stem, values in stems.items():
            found[f"{name}_{stem}"] = values[:, ::EVERY]
            found[f"{name}_length"] = np.array(values.shape[1])
    np.savez_compressed(HERE / "golden_mdx.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
