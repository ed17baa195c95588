"""Fine-tunes over BFL's API: our client side against our server's `/bfl`, over real HTTP."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from live import Live
from vividcover import sdk
from vividcover.errors import EngineError, InputError
from vividcover.settings import settings

CONSENT = "Vivi does not exist (sample/NOTICE.md)."
TRAINER, FINETUNED = "black-forest-labs/flux-pro-trainer", "black-forest-labs/flux-pro-finetuned"


@pytest.fixture(autouse=True)
def _here(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_BFL_URL", f"{server.url}/bfl")
    monkeypatch.setenv("VIVIDCOVER_BFL_KEY", server.token())
    settings.cache_clear()


def test_a_finetune_is_ordered_and_gives_pictures(sample: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("01.jpg", "02.jpg", "05.jpg"):
        shutil.copy(sample / "photos" / name, photos)
    trained = sdk.run(
        TRAINER, {"input_images": str(photos), "trigger_word": "VIVI", "mode": "character"}, consent=CONSENT,
        engine="hosted",
    )  # fmt: skip
    values = {
        "finetune_id": trained.text, "prompt": "VIVI in a neon street", "seed": 3, "aspect_ratio": "custom",
        "width": 256, "height": 320, "output_format": "png",
    }  # fmt: skip
    made = sdk.run(FINETUNED, values, output=tmp_path / "still.png", engine="hosted")
    with Image.open(made.files[0]) as still:
        assert still.size == (256, 320)
        assert "AI-generated" in still.text["Comment"]  # type: ignore[attr-defined]
    assert made.result.engine == "hosted"


def test_a_finetune_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises((InputError, EngineError), match="nobody"):
        sdk.run(FINETUNED, {"finetune_id": "nobody", "prompt": "x"}, output=tmp_path / "x.jpg", engine="hosted")


def test_a_wrong_key_says_where_to_set_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVIDCOVER_BFL_KEY", "wrong")
    settings.cache_clear()
    with pytest.raises(EngineError, match="VIVIDCOVER_BFL_KEY"):
        sdk.run(FINETUNED, {"finetune_id": "a", "prompt": "x"}, output=tmp_path / "x.jpg", engine="hosted")
