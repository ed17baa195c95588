"""Tiny random nets in the published files' formats: the neural engine's whole road without anyone's weights."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from vividcover.settings import settings

sys.path.insert(0, str(Path(__file__).parent / "oracles"))
from seeded import fill, shapes_of


def contentvec(path: Path, seed: int = 0) -> Path:
    """A ContentVec of one layer, as wide as the published one, in transformers' spelling."""
    import torch

    from vividcover.tensors import write_tensors
    from vividcover.voice.rvc.hubert import ContentVec, HubertConfig

    config = HubertConfig(layers=1, inner=64, channels=16, position_kernel=16)
    values = fill(shapes_of(ContentVec(config)), seed)
    return write_tensors(path, {name: torch.from_numpy(value) for name, value in values.items()})


def voice(path: Path, seed: int = 0, *, rate: int = 40_000, version: str = "v2", index: bool = True) -> Path:
    """A zip as people publish voices: NAME.pth and added_….index; sizes a sixtieth of a real one's."""
    import numpy as np
    import torch

    from vividcover.voice.rvc import index as indexes
    from vividcover.voice.rvc.checkpoint import write_voice_file
    from vividcover.voice.rvc.config import tiny
    from vividcover.voice.rvc.network import Synthesizer

    net = Synthesizer(tiny(version, rate))
    net.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(net), seed).items()})
    folder = path.parent / f"{path.stem}-parts"
    folder.mkdir()
    files = [write_voice_file(folder / f"{path.stem}.pth", net, info="1epoch")]
    if index:
        width = 768 if version == "v2" else 256
        features = np.random.default_rng(seed).standard_normal((200, width)).astype(np.float32)
        files.append(indexes.build(features, folder, name=path.stem, version=version))
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def use(monkeypatch: pytest.MonkeyPatch, **files: Path) -> None:
    """These files instead of the registry's, for this test and the processes that it starts."""
    monkeypatch.setenv("VIVIDCOVER_WEIGHT_FILES", json.dumps({k.replace("_", "-"): str(p) for k, p in files.items()}))
    settings.cache_clear()
