"""Golden values of Sonic's UNet, from the code that its authors publish, and of SVD's, from diffusers.

    python tests/oracles/make_sonic_unet.py SONIC_FOLDER [--full]

SONIC_FOLDER is an unpacked copy of github.com/jixiaozhong/Sonic. Needs torch and diffusers. The networks are tiny and
filled by name (seeded.py); what they answer is kept, and names and shapes of the full-size one. With `--full`, theirs
and ours of full size are filled alike and must answer alike too (two minutes, 8 GB of memory; nothing of it is kept).
Made with torch 2.13 and diffusers 0.42.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from seeded import fill, noise, shapes_of

from vividcover.portrait.sonic.config import FULL, TINY, TOKENS, UNetConfig
from vividcover.portrait.sonic.network import MaskPyramid, SonicUNet

HERE = Path(__file__).parent
CASES = {  # windows or branches, frames, height, width in px
    "branches": (3, 5, 64, 64), "wide": (1, 5, 64, 128), "tall": (2, 2, 128, 64), "still": (1, 1, 64, 64),
    "window": (1, 25, 64, 64),
}  # fmt: skip
MASKS = ((512, 512), (576, 1024), (320, 192))
TINY_TOKENS = 6


def inputs(case: str, config: UNetConfig = TINY, tokens: int = TINY_TOKENS) -> SimpleNamespace:
    """What the network is given; the tests make the same. CLIP differs between branches, the voice between frames."""
    batch, frames, height, width = CASES[case]
    made = {
        "x": noise(f"x/{case}", batch, frames, config.in_channels, height // 8, width // 8),
        "clip": np.repeat(noise(f"clip/{case}", batch, 1, 1, config.context), frames, 1),
        "audio": noise(f"audio/{case}", batch, frames, tokens, config.context),
        "mask": soft_mask(height, width),
        "c_noise": np.full(batch, 0.25 * np.log(3.7), np.float32),
        "added": np.tile(np.array([[12.5, 19.3, 24.8]], np.float32), (batch, 1)),
    }
    return SimpleNamespace(**{name: torch.from_numpy(value) for name, value in made.items()})


def soft_mask(height: int, width: int) -> Any:
    """A face's mask as it comes out of resizing: 1 inside, 0 outside, soft between. float32 [height, width]"""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    inside = np.minimum.reduce([y - 0.2 * height, 0.8 * height - y, x - 0.3 * width, 0.7 * width - x])
    return np.clip(inside / 3 + 0.5, 0, 1).astype(np.float32)


def sizes(config: UNetConfig) -> dict[str, Any]:
    """diffusers' names of them."""
    return {
        "in_channels": config.in_channels, "out_channels": config.out_channels, "block_out_channels": config.channels,
        "num_attention_heads": config.heads, "layers_per_block": config.layers, "cross_attention_dim": config.context,
        "addition_time_embed_dim": config.added, "projection_class_embeddings_input_dim": 3 * config.added,
    }  # fmt: skip


def filled(module: torch.nn.Module) -> Any:
    module.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(module)).items()})
    return module.eval()


def peer(config: UNetConfig, tokens: int) -> Any:
    published = import_module("src.models.base.unet_spatio_temporal_condition")
    net = published.UNetSpatioTemporalConditionModel(**sizes(config))
    published.add_ip_adapters(net, [tokens], [1.0])
    return net


def drawn(net: Any, x: SimpleNamespace) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return net(
            x.x, x.c_noise, (x.clip.flatten(0, 1), [x.audio.flatten(0, 1)]), x.added,
            cross_attention_kwargs={"ip_adapter_masks": [x.mask[None, None]]}, return_dict=False,
        )[0].numpy()  # fmt: skip


def full_size() -> None:
    """Both networks hold the very same tensors."""
    with torch.device("meta"):
        theirs, ours = peer(FULL, TOKENS), SonicUNet(FULL)
    weights = {name: torch.from_numpy(value) for name, value in fill(shapes_of(theirs)).items()}
    for net in (theirs, ours):
        net.load_state_dict(weights, assign=True)
    x = inputs("tall", FULL, TOKENS)
    expected = drawn(theirs.eval(), x)
    with torch.no_grad():
        found = ours(x.x, x.c_noise, x.added, ours.hear(x.clip, x.audio), MaskPyramid.of(x.mask)).numpy()
    apart = float(np.abs(found - expected).max())
    print(f"full size: answers of deviation {expected.std():.3f}, at most {apart:.1e} apart")
    assert apart < 1e-4


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gold: dict[str, Any] = {}
    net = filled(peer(TINY, TINY_TOKENS))
    for case in CASES:
        gold[f"sonic/{case}"] = drawn(net, inputs(case)).astype(np.float32)

    stock = import_module("diffusers").UNetSpatioTemporalConditionModel(**sizes(TINY))
    stock = filled(stock)
    for case in CASES:
        x = inputs(case)
        with torch.no_grad():
            gold[f"svd/{case}"] = stock(x.x, x.c_noise, x.clip[:, 0], x.added, return_dict=False)[0].numpy()

    downsample = import_module("src.utils.mask_processer").IPAdapterMaskProcessor.downsample
    for height, width in MASKS:
        mask = torch.from_numpy(soft_mask(height, width))[None]
        for level in range(4):
            queries = (height // 8 >> level) * (width // 8 >> level)
            gold[f"mask/{height}x{width}/{level}"] = downsample(mask, 1, queries, 1)[0, ::7, 0].numpy()

    with torch.device("meta"):
        full = peer(FULL, TOKENS)
    gold["full"] = np.frombuffer(json.dumps(shapes_of(full)).encode(), np.uint8)
    if "--full" in sys.argv:
        full_size()
    np.savez_compressed(HERE / "golden_sonic_unet.npz", **gold)
    print(f"{len(gold)} arrays, {(HERE / 'golden_sonic_unet.npz').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
