"""The zip of a trained voice: flat, as RVC's trainers hand it out, with a card that says what it is.

    vivi.zip ── vivi.pth  added_IVF512_Flat_nprobe_1_vivi_v2.index  total_fea.npy  model.json

Any RVC program reads the first three. The same parts give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vividcover.archives import write_zip
from vividcover.files import canonical
from vividcover.trained import CARD, PUBLISHED, kind_name
from vividcover.voice.rvc.index import as_npy
from vividcover.workspace import Reporter

ENGINE = "neural"
FEATURES_FILE = "total_fea.npy"
LICENCE = (
    "Made from the recordings of the person named in the consent statement; use it only as far as that statement goes."
)


def card(
    name: str, consent: str, report: Mapping[str, Any], learnt: Mapping[str, Any], *, version: str, rate: int, f0: bool,
    dataset_sha256: str,
) -> dict[str, Any]:  # fmt: skip
    """model.json. `report` is the training set's (minutes, pitch); `learnt` the training's (epochs, steps, losses)."""
    return {
        "kind": kind_name("voice"), "engine": ENGINE, "format": PUBLISHED, "name": name, "consent": consent,
        "licence": LICENCE, "version": version, "sample_rate": rate, "f0": f0, "dataset_sha256": dataset_sha256,
        **{key: report[key] for key in ("minutes", "minutes_heard", "minutes_voiced", "clips", "f0_hz", "sung")},
        **learnt, "warnings": list(report["advice"]),
    }  # fmt: skip


def write_package(
    out: Path, *, name: str, voice: Path, index: Path, features: NDArray[np.float32], card: Mapping[str, Any],
    reporter: Reporter | None = None,
) -> Path:  # fmt: skip
    """Writes the zip, whole or not at all. `voice` is the .pth, `features` [N, C] what the index was made of."""
    files: dict[str, Path | bytes] = {
        f"{name}.pth": voice,
        index.name: index,
        FEATURES_FILE: as_npy(features),
        CARD: (canonical(dict(card)) + "\n").encode(),
    }
    return write_zip(Path(out), files, reporter=reporter)


def dataset_digest(hashes: Sequence[str]) -> str:
    """One sha256 for recordings, whatever their order and names."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()
