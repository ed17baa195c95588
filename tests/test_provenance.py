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


MINE = {"kind": "voice", "name": "me", "consent": "mine", "licence": "mine", "sha256": "01"}
NET = {"name": "n", "licence": "Apache-2.0", "commercial": True, "allows": "keep the notice"}


def test_a_material_without_consent_forbids_commercial_use_and_says_why() -> None:
    link, file = {"song": {"source": "https://x/y"}}, {"song": {"source": "song.mp3"}}
    good = provenance.licences([NET], [MINE], link)
    assert good["commercial_use"] and any("link" in duty for duty in good["duties"])
    bad = provenance.licences([NET], [MINE | {"consent": ""}], file)
    assert not bad["commercial_use"] and "voice me" in bad["because"]
    worse = provenance.licences([NET | {"commercial": False}], [MINE], file)
    assert not worse["commercial_use"] and worse["because"].startswith("non-commercial") and "n" in worse["because"]


def test_what_a_model_that_ran_elsewhere_allows_is_not_guessed() -> None:
    found = provenance.licences([], [MINE], {}, hosted="zsxkib/sonic")
    assert not found["commercial_use"] and "zsxkib/sonic" in found["because"]
    assert found["nets"] == [{"name": "zsxkib/sonic", "licence": provenance.HOSTED, "allows": "what its page says"}]


def test_every_licence_says_what_it_allows_or_that_the_model_states_none() -> None:
    found = provenance.licences([NET], [MINE, MINE | {"kind": "image", "licence": None}], {})
    assert found["software"]["licence"] == "Apache-2.0" and found["software"]["allows"]
    assert found["nets"] == [{"name": "n", "licence": "Apache-2.0", "allows": "keep the notice"}]
    assert [m["licence"] for m in found["materials"]] == ["mine", provenance.NOT_STATED]


def test_a_picture_that_was_given_carries_no_consent_and_a_trained_image_model_is_no_such_picture() -> None:
    picture = {"still": {"source": "her.jpg", "sha256": "02"}}
    found = provenance.licences([NET], [MINE], picture)
    assert not found["commercial_use"] and "the picture given as still" in found["because"]
    trained = {"image": {"source": "her", "sha256": "03"}}
    assert provenance.licences([NET], [MINE | {"kind": "image", "sha256": "03"}], trained)["commercial_use"]


def test_what_is_not_synthetic_has_no_mark_to_keep() -> None:
    duties = provenance.licences([], [], {"song": {"source": "song.mp3"}}, synthetic=False)["duties"]
    assert len(duties) == 1 and "makers'" in duties[0]


def test_the_record_lies_beside_the_output_and_spares_another_persons_file(tmp_path: Path) -> None:
    assert provenance.sidecar(tmp_path / "cover.mp4", {"made_by": "vividcover 1"}).name == "cover.json"
    assert provenance.sidecar(tmp_path / "cover.mp4", {"made_by": "vividcover 2"}).name == "cover.json"
    (tmp_path / "song.mp3.json").write_text('{"mine": true}')
    assert provenance.sidecar(tmp_path / "song.mp3", {"made_by": "vividcover"}).name == "song.mp3.vividcover.json"
    assert json.loads((tmp_path / "song.mp3.json").read_text()) == {"mine": True}


def test_files_that_differ_in_their_suffix_only_have_a_record_each(tmp_path: Path) -> None:
    names = ("song.mp4", "song.flac", "song.mp3", "song.png")
    assert len({provenance.sidecar(tmp_path / name, {"made_by": "vividcover"}) for name in names}) == len(names)
