"""Prompts: what is understood is painted, what is not is named."""

from __future__ import annotations

import pytest

from vividcover.errors import ParameterError
from vividcover.image.classic.scene import SCENES as PAINTERS
from vividcover.image.prompt import read_prompt
from vividcover.image.words import SCENES


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("TOK on stage performing", "stage"),
        ("TOK singing in a huge arena", "arena"),
        ("TOK in a night club", "club"),
        ("TOK on a street at night", "street"),
        ("studio portrait of TOK", "studio"),
        ("TOK on the beach at sunset", "beach"),
        ("TOK in front of neon signs", "neon"),
        ("TOK at a music festival", "festival"),
        ("TOK before a red curtain", "theatre"),
        ("TOK in a smoky jazz bar", "jazz"),
        ("TOK in a recording studio", "recording"),
        ("TOK on a rooftop at sunset", "rooftop"),
        ("TOK", "stage"),
    ],
)
def test_scene_words_lead_to_their_scene(prompt: str, scene: str) -> None:
    asked = read_prompt(prompt, trigger_word="TOK")
    assert asked.scene == scene
    assert asked.trigger
    assert asked.unknown == ()


def test_every_scene_word_has_a_painter() -> None:
    assert set(SCENES) == set(PAINTERS)


def test_colours_light_framing_mood_and_things_are_understood() -> None:
    asked = read_prompt(
        "close-up of VIVI on stage, blue and pink light, spotlight, moody film grain, microphone, smoke, crowd",
        trigger_word="vivi",
    )
    assert asked.palette == ("blue", "pink")
    assert (asked.light, asked.framing) == ("spotlight", "close-up")
    assert asked.moods == ("moody", "grain")
    assert asked.elements == ("microphone", "smoke", "crowd")
    assert asked.unknown == ()


def test_words_without_effect_are_named() -> None:
    asked = read_prompt("TOK riding a purple elephant on stage in a red dress", trigger_word="TOK")
    assert asked.unknown == ("riding", "elephant", "red dress")
    assert asked.palette == ("purple",)
    assert asked.report()["words_not_understood"] == ["riding", "elephant", "red dress"]


def test_what_the_prompt_forbids_is_left_out() -> None:
    asked = read_prompt("arena without crowd, no microphone")
    assert asked.elements == ()
    assert set(asked.absent) == {"crowd", "microphone"}


def test_the_trigger_word_is_a_word() -> None:
    assert not read_prompt("tokyo street", trigger_word="TOK").trigger
    assert read_prompt("tokyo street", trigger_word="TOK").scene == "street"


def test_endless_prompts_are_refused() -> None:
    with pytest.raises(ParameterError, match="2001 characters"):
        read_prompt("x" * 2001)
