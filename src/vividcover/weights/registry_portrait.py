"""The nets that the neural portrait is made with: Sonic, Stable Video Diffusion below it, whisper, RIFE.

Hashes: those with which public programs pin the files (the author's own copies of Sonic's, byte for byte those on the
hub as far as both are on record), and the hub's LFS records. Small files have none, see `registry_image.py`.
"""

from __future__ import annotations

from vividcover.weights.licences import SONIC_NAME, SONIC_PAGE, SONIC_SHORT, SVD_NAME, SVD_PAGE, SVD_SHORT
from vividcover.weights.sources import Net, Part, Tree, hub, tree

SONIC = "LeonJoe13/Sonic"  # the author's repository of weights
NO_COMMIT = "main"  # none is on record; the hash pins the file
SONIC_NOTE = (
    f"{SONIC_NAME} (Xiaozhong Ji and others, {SONIC_PAGE}): non-commercial use only, named authors, same licence for "
    "what is made of it; its authors say that this holds for the videos too."
)
SVD = "stabilityai/stable-video-diffusion-img2vid-xt"
SVD_NOTE = (
    f"{SVD_NAME} ({SVD_PAGE}): commercial use free up to a revenue of USD 1 million a year, after registering; "
    "published at first under a licence for non-commercial research."
)


def _sonic(name: str, purpose: str, sha256: str) -> Net:
    file = f"{name.removeprefix('sonic-')}.pth"
    return Net(
        name, f"sonic/{file}", purpose, hub(SONIC, NO_COMMIT, f"Sonic/{file}"), "", 0, sha256, SONIC_SHORT, SONIC_NOTE,
        False, ("portrait",),
    )  # fmt: skip


PORTRAIT = (
    _sonic(
        "sonic-unet",
        "draws the head that sings (Sonic, 1.6 billion numbers, 6.3 GB)",
        "2fb0b0b8fe07232f9c4e8af4ce64fc3b33593bf6dfd7c840b60585dc6017128b",
    ),
    _sonic(
        "sonic-audio2token",
        "what the mouth does, from what whisper hears (Sonic)",
        "68cf305813bf5e4682c4f6a80955233cfad6a5e194fd4a6963f27e4e8ee490d8",
    ),
    _sonic(
        "sonic-audio2bucket",
        "how much head and face move, from sound and still (Sonic)",
        "4af942fded37b70d0a0a7993b8c0f46b5b1e104bcf7b6316f7b509900db69d26",
    ),
    tree(
        "svd-xt",
        "pictures to latents and back, and what CLIP sees in the still (Stable Video Diffusion XT, without its UNet)",
        Tree(
            SVD,
            "9e43909513c6714f1bc78bcb44d96e733cd242aa",
            (
                Part(
                    "image_encoder/config.json",
                    685,
                    "65da4496f116d2b297fe864e0f31242fbc57e26a5d95b93310f2034e1e90d0ec",
                ),
                Part(
                    "image_encoder/model.fp16.safetensors",
                    1_264_217_240,
                    "ae616c24393dd1854372b0639e5541666f7521cbe219669255e865cb7f89466a",
                ),
                Part("scheduler/scheduler_config.json", 533),
                Part("unet/config.json", 984),
                Part("vae/config.json", 607, "8f34272db69f7e2c615da6142ca3f9fdcd7b682bcfd903ceb15035fea79a8303"),
                Part(
                    "vae/diffusion_pytorch_model.fp16.safetensors",
                    195_531_910,
                    "af602cd0eb4ad6086ec94fbf1438dfb1be5ec9ac03fd0215640854e90d6463a3",
                ),
            ),
        ),
        SVD_SHORT,
        SVD_NOTE,
        None,
        "portrait",
        f"https://huggingface.co/{SVD}",
    ),
    tree(
        "whisper-tiny",
        "what is sung, 50 times a second (Whisper, tiny)",
        Tree(
            "openai/whisper-tiny",
            "169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
            (
                Part("config.json", 1_983, "ffdccec4f3211f4c63310f2b7098f309fe70f3952cedc5e4d11e43f5b2379b98"),
                Part(
                    "model.safetensors",
                    151_061_672,
                    "7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
                ),
            ),
        ),
        "MIT",
        "OpenAI's Whisper, code and weights, is MIT; commercial use allowed.",
        True,
        "portrait",
    ),
    Net(
        "rife",
        "rife/flownet.pkl",
        "the picture between two pictures (RIFE HDv3, release 3.6)",
        hub("AlexWortega/RIFE", "440cdec905de98e1d7e81f65d2c88a08da7cb4e2", "flownet.pkl"),
        "",
        0,
        "fe854fc8996547c953f732aaa3b78cae76cc0a12833ae856ea0749c4c570d7d8",
        "MIT",
        "RIFE (Zhewei Huang and others), code and models, is MIT; commercial use allowed. Sonic's repository has the "
        "same file.",
        True,
        ("portrait",),
    ),
)
PORTRAIT_GROUPS = {"portrait": "the neural portrait (Sonic); not for commercial use"}
