"""Every output says what made it, that it is synthetic, and what may be done with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vividcover import provenance


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_pictures_carry_the_mark_inside(tmp_path: Path, format: str) -> None:
    rgb = np.full((32, 48, 3), 128, np.uint8)
    path = tmp_path / f"still.{format}"
    provenance.save_picture(rgb, path, format=format, quality=90, engine="classic", description="made <by> a test & me")
    with Image.open(path) as picture:
        assert picture.size == (48, 32)
        packet = picture.info.get("xmp", picture.info.get("XML:com.adobe.xmp"))
    text = packet.decode() if isinstance(packet, bytes) else packet
    assert "digitalsourcetype/compositeSynthetic" in text and "AI-generated" in text and "a test &amp; me" in text


def test_the_same_picture_is_the_same_bytes(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)
    for name in ("a.png", "b.png"):
        provenance.save_picture(rgb, tmp_path / name, format="png", quality=90, engine="classic", description="d")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_tags_are_the_same_for_the_same_run() -> None:
    assert provenance.tags("t", "m", "classic", 3) == provenance.tags("t", "m", "classic", 3)
    assert "AI-generated" in provenance.tags("t", "m", "classic", 3)["comment"]


def test_a_material_without_consent_forbids_commercial_use_and_says_why() -> None:
    net = {"name": "n", "licence": "Apache-2.0", "commercial": True}
    mine = {"kind": "voice", "name": "me", "consent": "mine", "licence": "mine"}
    good = provenance.licences([net], [mine], links=True)
    assert good["commercial_use"] and any("link" in duty for duty in good["duties"])
    bad = provenance.licences([net], [mine | {"consent": ""}], links=False)
    assert not bad["commercial_use"] and "voice me" in bad["because"]
    worse = provenance.licences([net | {"commercial": False}], [mine], links=False)
    assert not worse["commercial_use"] and "non-commercial: n" in worse["because"]


def test_the_record_lies_beside_the_output_and_spares_another_persons_file(tmp_path: Path) -> None:
    assert provenance.sidecar(tmp_path / "cover.mp4", {"made_by": "vividcover 1"}).name == "cover.json"
    assert provenance.sidecar(tmp_path / "cover.mp4", {"made_by": "vividcover 2"}).name == "cover.json"
    (tmp_path / "song.json").write_text('{"mine": true}')
    assert provenance.sidecar(tmp_path / "song.mp3", {"made_by": "vividcover"}).name == "song.mp3.vividcover.json"
    assert json.loads((tmp_path / "song.json").read_text()) == {"mine": True}
