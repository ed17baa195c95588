"""What may be asked of each base, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vividcover.errors import ImageError, ParameterError
from vividcover.image.flux.request import MOST_PIXELS, ULTRA, Request, check, settle, ultra_size

PICTURE = np.zeros((64, 64, 3), np.uint8)
WHITE = np.full((64, 64), 255, np.uint8)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"width": 1000}, "width is 1000"), ({"height": 8}, "height is 8"), ({"width": 4096, "height": 2048}, "large"),
        ({"count": 0}, "count is 0"), ({"seed": -1}, "seed is -1"), ({"steps": 0}, "steps is 0"),
        ({"guidance": float("nan")}, "guidance is nan"), ({"prompt": "  "}, "prompt is empty"),
        ({"prompt_strength": 1.2}, "prompt_strength is 1.2"), ({"tolerance": 7}, "tolerance is 7"),
        ({"text_length": 600}, "text_length is 600"), ({"mask": WHITE}, "no image"),
        ({"canny_low": 300}, "300 is over canny_high_threshold 200"),
        ({"control": PICTURE}, "follows no control picture"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(given: dict[str, Any], names: str) -> None:
    with pytest.raises(ParameterError, match=names) as caught:
        check(Request(**{"prompt": "TOK", **given}), "dev")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "given", "names"),
    [
        ("fill", {}, "needs an image and a mask"), ("fill", {"image": PICTURE}, "needs an image and a mask"),
        ("canny", {}, "needs a control picture"), ("depth", {}, "needs a control picture"),
        ("depth", {"control": PICTURE, "image": PICTURE}, "no image to change"),
    ],
)  # fmt: skip
def test_each_base_says_which_pictures_it_needs(kind: str, given: dict[str, Any], names: str) -> None:
    with pytest.raises(ParameterError, match=names):
        check(Request("TOK", **given), kind)


def test_pictures_that_are_none_are_refused() -> None:
    with pytest.raises(ImageError, match="float64"):
        check(Request("TOK", image=np.zeros((64, 64, 3))), "dev")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="RGB"):
        check(Request("TOK", redux=np.zeros((64, 64), np.uint8)), "dev")
    with pytest.raises(ImageError, match="bytes"):
        check(Request("TOK", image=PICTURE, mask=PICTURE), "dev")
    with pytest.raises(ImageError, match="black"):
        check(Request("TOK", image=PICTURE, mask=np.zeros((64, 64), np.uint8)), "dev")


def test_each_base_brings_its_makers_steps_and_guidance() -> None:
    assert (settle(Request("TOK"), "dev").steps, settle(Request("TOK"), "dev").guidance) == (28, 3.5)
    fast = settle(Request("TOK", guidance=3.0), "schnell", takes_guidance=False)
    assert (fast.steps, fast.guidance, fast.text_length) == (4, None, 256)
    assert "not used" in fast.notes[0]
    assert settle(Request("TOK", steps=9, guidance=2.0), "dev").steps == 9
    assert settle(Request("TOK", prompt_strength=0.3), "dev").strength == 1  # nothing to keep
    assert settle(Request("TOK", image=PICTURE, prompt_strength=0.3), "dev").strength == 0.3


def test_raw_lowers_the_guidance_and_says_so() -> None:
    settled = settle(Request("TOK", raw=True), "dev")
    assert settled.guidance == 2.0
    assert "raw" in settled.notes[0]
    assert settle(Request("TOK", raw=True, guidance=1.5), "dev").notes == ()


@pytest.mark.parametrize("ratio", ULTRA)
def test_ultra_sizes_have_their_ratio_and_about_four_megapixels(ratio: str) -> None:
    width, height = ultra_size(ratio)
    across, down = (int(part) for part in ratio.split(":"))
    assert width % 32 == height % 32 == 0
    assert abs(width / height / (across / down) - 1) < 0.025
    assert 0.97 * 2**22 < width * height <= MOST_PIXELS


def test_ultra_knows_its_ratios() -> None:
    assert ultra_size("1:1") == (2048, 2048)
    assert ultra_size("1:1", megapixels=1) == (1024, 1024)
    with pytest.raises(ParameterError, match="7:5"):
        ultra_size("7:5")
