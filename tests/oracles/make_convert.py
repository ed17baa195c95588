"""Golden values of a whole conversion: RVC's own `Pipeline` (2023, MIT) on small networks filled by name.

    python tests/oracles/make_convert.py FOLDER

FOLDER is a checkout of bench/peers/rvc_peer.py's REPOSITORY at its COMMIT. What the peer draws at random is zero; the
pitch is given, so that pieces, features, index, protection, networks, loudness and 16 bits are what is compared.
Writes tests/oracles/golden_convert.npz: every STEP-th sample that it sang, and how many there were.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "bench" / "peers")]

from seeded import fill, noise, signal  # noqa: E402

Array = np.ndarray[Any, Any]
RATE = 16_000
CASES: dict[str, dict[str, Any]] = {
    "whole": {"seconds": 1.23, "version": "v2", "rate": 32_000, "index_rate": 0.75, "protect": 0.33, "rms": 0.25},
    "cut": {"seconds": 5.4, "version": "v2", "rate": 32_000, "index_rate": 0.5, "protect": 0.2, "rms": 1.0},
    "v1": {"seconds": 1.5, "version": "v1", "rate": 40_000, "index_rate": 0.0, "protect": 0.5, "rms": 0.0},
}
CUTTING = {"x_pad": 1, "x_query": 1, "x_center": 2, "x_max": 3}  # seconds: a short song is cut as a long one would be
STEP = 7
HUBERT = {
    "hidden_size": 768, "num_hidden_layers": 9, "num_attention_heads": 12, "intermediate_size": 64,
    "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 48,
}  # fmt: skip
VECTORS = 300  # of the index


def pitch_of(frames: int) -> Array:
    """The pitch that both are given, Hz per frame: vibrato, and a pause every now and then."""
    t = np.arange(frames)
    return np.where(t // 37 % 5 > 0, 210 + 40 * np.sin(t / 23), 0.0)


def vectors(width: int) -> Array:
    """What the index holds: [VECTORS, width], about as large as the features."""
    return noise("index", VECTORS, width)


def index_file(width: int, folder: Path) -> Path:
    import faiss

    made = faiss.IndexFlatL2(width)
    made.add(vectors(width))
    faiss.write_index(made, str(folder / f"added_{width}.index"))
    return folder / f"added_{width}.index"


def main(peer_folder: Path) -> None:
    import rvc_peer
    import torch
    from transformers import HubertConfig

    from vividcover.voice.rvc.config import tiny

    rvc_peer.settle(peer_folder)
    for draw in ("randn_like", "rand"):
        setattr(torch, draw, lambda *size, **more: torch.zeros_like(size[0]) if torch.is_tensor(size[0])
                else torch.zeros(*size, **more))  # fmt: skip
    torch.set_num_threads(1)
    hubert = rvc_peer.Hubert(config=HubertConfig(**HUBERT))
    rvc_peer.fill(hubert.net)
    golden: dict[str, Array] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            config = tiny(case["version"], case["rate"])
            voice = rvc_peer.synthesizer(config.to_list(), case["version"])
            rvc_peer.fill(voice)
            projection = fill({"final_proj.weight": (256, 768), "final_proj.bias": (256,)})
            hubert.final_proj.load_state_dict(
                {key.split(".")[1]: torch.from_numpy(value) for key, value in projection.items()}
            )
            line = rvc_peer.pipeline(case["rate"], "cpu", **CUTTING)

            class Tracker:
                def infer_from_audio(self, audio: Array, thred: float) -> Array:
                    return pitch_of(len(audio) // 160 + 1)

            line.model_rmvpe = Tracker()
            with torch.no_grad():
                sung = line.pipeline(
                    hubert, voice.eval(), 0, signal(case["seconds"], RATE), "", [0, 0, 0], 0, "rmvpe",
                    str(index_file(config.features, Path(folder))), case["index_rate"], 1, 3, case["rate"], 0,
                    case["rms"], case["version"], case["protect"],
                )  # fmt: skip
            print(name, sung.shape, sung.dtype, np.abs(sung).max())
            golden |= {name: sung[::STEP], f"{name}_samples": np.array(len(sung))}
    np.savez_compressed(HERE / "golden_convert.npz", **golden)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
