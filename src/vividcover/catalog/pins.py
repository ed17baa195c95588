"""Version ids under which the published models are pinned in other people's code, oldest first, the usual one last.

A server of ours answers to each of them with the model that ships, so that such code runs unchanged. Taken from the
models' pages and from public code that calls them. A model that is not here gets an id made from its inputs.
"""

from __future__ import annotations

PINS: dict[str, tuple[str, ...]] = {
    "zsxkib/create-rvc-dataset": ("c445e27ff34574e92781c15c67db41835cedcdc27a19f527a7dcf37bd0ffe1ff",),
    "replicate/train-rvc-model": (
        "0397d5e28c9b54665e1e5d29d5cf4f722a7b89ec20e9dbf31487235305b1a101",
        "cf360587a27f67500c30fc31de1e0f0f9aa26dcd7b866e6ac937a07bd104bad9",
    ),
    "zsxkib/realistic-voice-cloning": ("0a9c7c558af4c0f20667c1bd1260ce32a2879944a0b9e44e1398660c077b1550",),
    "zsxkib/sonic": (
        "97851dcaeee2b52e5e0bda1c913fabb32cb1c8c07b7966fc77e5bd83e8e2c30e",
        "a2aad29ea95f19747a5ea22ab14fc6594654506e5815f7f5ba4293e888d3e20f",
    ),
    "replicate/fast-flux-trainer": (
        "e65b43286cf1fc648ebac89c32149769637c0410f5346b97c251cdbc3fc3da1a",
        "f463fbfc97389e10a2f443a8a84b6953b1058eafbf0c9af4d84457ff07cb04db",
        "8b10794665aed907bb98a1a5324cd1d3a8bea0e9b31e65210967fb9c9e2e08ed",
    ),
    "ostris/flux-dev-lora-trainer": (
        "b6af14222e6bd9be257cbc1ea4afda3cd0503e1133083b9d1de0364d8568e6ef",
        "e440909d3512c31646ee2e0c7d6f6f4923224863a6a10c494606e79fb5844497",
        "26dce37af90b9d997eeb970d92e47de3064d46c300504ae376c75bef6a9022d2",
        "4ffd32160efd92e956d39c5338a9b8fbafca58e03f791f6d8011f3e20e8ea6fa",
    ),
    "black-forest-labs/flux-pro-finetuned": ("3412257f7a7c2741f0d980da3219f681cb420c0fd3e00a585871ab05d5f538bc",),
    "black-forest-labs/flux-1.1-pro-ultra-finetuned": (
        "1ab8454c1cc3e6229898e4bbb4904602d6f1b44628d81dd2b5fc43f95919c65e",
    ),
}  # fmt: skip
