"""The whole pipeline as hosted models: the real client over real HTTP, and behind it our server's classic engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from live import Live
from vividcover import sdk
from vividcover.catalog import shelf
from vividcover.settings import settings
from vividcover.song import codec

CONSENT = "Vivi does not exist (sample/NOTICE.md)."


@pytest.fixture(autouse=True)
def _here(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """This side knows the other side's address and has a token for it."""
    monkeypatch.setenv("VIVIDCOVER_REPLICATE_URL", server.url)
    monkeypatch.setenv("VIVIDCOVER_REPLICATE_TOKEN", server.token())
    settings.cache_clear()


@pytest.fixture
def photos(sample: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("01.jpg", "02.jpg", "03.jpg", "05.jpg"):
        shutil.copy(sample / "photos" / name, folder)
    return folder


def test_photos_recordings_and_a_song_become_a_cover_on_the_other_side(
    sample: Path, photos: Path, clip: Path, tmp_path: Path
) -> None:
    clips = sorted(str(p) for p in (sample / "voice").glob("*.flac"))
    voice = sdk.train_voice(clips, name="vivi", consent=CONSENT, engine="hosted")
    image = sdk.train_image(photos, name="vivi", trigger_word="VIVI", consent=CONSENT, engine="hosted")
    for kind, made in (("voice", voice), ("image", image)):
        card = shelf.card(made.files[0], kind)  # type: ignore[arg-type]
        assert (card["engine"], card["consent"]) == ("hosted", CONSENT)

    out = tmp_path / "cover.mp4"
    made = sdk.make_cover(
        clip, voice="vivi", image="vivi", prompt="VIVI on stage performing", seed=7, output=out, aspect_ratio="custom",
        width=256, height=256, portrait_mode="fast", portrait_steps=20,
    )  # fmt: skip
    assert made.result.engine == "hosted"
    assert "portrait_mode" in {one.parameter for one in made.result.not_honoured}
    assert "hosted engine trained" in made.result.why
    assert codec.probe(out).seconds == pytest.approx(codec.probe(clip).seconds, abs=0.05)
    assert not codec.is_silent(_pcm(out, tmp_path))
    assert any("USD" in note for note in made.result.notes), "what it cost is said"
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["ai_generated"]
    there = [s["name"] for s in record["stages"] if s["name"].startswith("hosted/") and "/" in s["name"][7:]]
    assert sorted(set(there)) == ["hosted/zsxkib/realistic-voice-cloning", "hosted/zsxkib/sonic"] or len(there) >= 4

    again = sdk.make_cover(
        clip, voice="vivi", image="vivi", prompt="VIVI on stage performing", seed=7, output=out, aspect_ratio="custom",
        width=256, height=256, portrait_mode="fast", portrait_steps=20,
    )  # fmt: skip
    assert all(stage.hit for stage in again.result.stages), "the same order is not paid for twice"


def _pcm(video: Path, folder: Path) -> Path:
    codec.decode(video, folder / "sound.wav")
    return folder / "sound.wav"
