"""What CLIP sees in the still: one vector, which steers every frame and every branch but the empty one.

    vector = clip_vector(net, rgb)         # uint8 [H, W, 3] → [1, 1024]

Sonic squeezes the picture to 224 x 224 px whatever its shape (Lanczos), and CLIP's own preparation then has nothing
left to do but to scale the colours: so it is done here, and is the same whether torchvision is there or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vividcover.portrait.sonic.config import CLIP_MEAN, CLIP_SIDE, CLIP_STD


def prepared(rgb: Any) -> Tensor:
    """uint8 [H, W, 3] → float32 [1, 3, 224, 224], as CLIP was trained to see it."""
    small = Image.fromarray(np.asarray(rgb)).resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(small).astype(np.float32) / 255)  # [224, 224, 3] in 0..1
    return ((pixels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(2, 0, 1)[None].contiguous()


def clip_vector(net: Any, rgb: Any) -> Tensor:
    """The vector [1, context] float32 of a picture uint8 [H, W, 3], on the device of the net.

    `net` is transformers' CLIPVisionModelWithProjection.
    """
    with torch.inference_mode():
        vector: Tensor = net(prepared(rgb).to(net.device, net.dtype)).image_embeds
    return vector.float().clone()
