"""Prompts in layers: what is said first stays first, no word is lost, and the trigger word is always there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vividcover.errors import ParameterError
from vividcover.image.prompt import MAX_PROMPT, read_prompt
from vividcover.image.prompts.expand import expand, expansion, place_of
from vividcover.image.prompts.layers import LAYERS, Kind, Layers, fill, names, parse, with_trigger
from vividcover.image.prompts.library import built_in


def words(text: str) -> list[str]:
    return sorted(re.findall(r"\w+", text))


def test_layers_are_written_and_read_back_exactly() -> None:
    layers = Layers("VIVI", "jumping", "on a lane", "under a low sky", "35mm", "carefree")
    assert layers.text() == "VIVI jumping on a lane, under a low sky, 35mm, carefree"
    assert Layers.read(layers.line()) == layers
    assert Layers("VIVI, sleeves rolled up,", "reading").text() == "VIVI, sleeves rolled up, reading"
    assert Layers.read("VIVI || on a roof").missing() == ("action", "lighting", "camera", "mood")


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(ParameterError, match="7"):
        Layers.read("a|b|c|d|e|f|g")


def test_a_free_prompt_is_taken_apart_as_the_guides_do() -> None:
    assert parse(
        "CYBRPNK standing confidently on a glass observation deck overlooking a neon-lit cityscape, "
        "at twilight with purple and orange sky, cinematic composition, 85mm lens, futuristic cyberpunk atmosphere"
    ) == Layers(
        "CYBRPNK", "standing confidently", "on a glass observation deck overlooking a neon-lit cityscape",
        "at twilight with purple and orange sky", "cinematic composition, 85mm lens",
        "futuristic cyberpunk atmosphere",
    )  # fmt: skip
    assert parse("cinematic lighting, a portrait of VIVI in a red coat").subject


def test_taking_apart_loses_no_word_and_mostly_finds_light_camera_and_mood() -> None:
    right = dict.fromkeys(LAYERS, 0)
    for entry in built_in():
        text = entry.text("VIVI")
        read = parse(text)
        assert words(read.text()) == words(text), entry.name
        for name in LAYERS:
            right[name] += getattr(read, name) == getattr(entry.layers, name)
    assert min(right[name] for name in ("lighting", "camera", "mood")) > 0.85 * len(built_in())


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("portrait of VIVI", "subject", "portrait of VIVI"),
        ("portrait of vivi at night", "subject", "portrait of VIVI at night"),
        ("a red bicycle", "subject", "VIVI, a red bicycle"),
        ("a chocolate cake, on a table", "style", "a chocolate cake in the style of VIVI, on a table"),
        ("VIVIAN alone", "subject", "VIVI, VIVIAN alone"),
        ("A rock concert with lasers", "subject", "VIVI at a rock concert with lasers"),
        ("a man at a rock concert", "subject", "VIVI, a man at a rock concert"),
        ("", "subject", "VIVI"),
    ],
)
def test_the_trigger_word_is_there_for_certain(text: str, kind: str, wanted: str) -> None:
    assert with_trigger(text, "VIVI", kind) == wanted  # type: ignore[arg-type]


def test_who_the_word_stands_for_is_said_once() -> None:
    assert fill("{TOK} dancing, then {TOK}", "ZIKI", "a man in his 40s") == "ZIKI, a man in his 40s, dancing, then ZIKI"
    assert fill("{TOK}, laughing", "ZIKI", "a man") == "ZIKI, a man, laughing"
    assert fill("the hat of {TOK}", "ZIKI", "a man") == "the hat of ZIKI, a man"
    assert fill("{TOK}'s hat on {TOK}", "ZIKI", "a man") == "ZIKI's hat on ZIKI, a man,".rstrip(",")


def test_a_short_prompt_is_written_out_and_stays_what_it_was() -> None:
    made = expansion("VIVI in a jazz bar", trigger="VIVI", seed=3)
    assert made.text.startswith("VIVI in a jazz bar, ")
    assert set(made.added) == {"lighting", "camera", "mood"}
    assert made.layers.lighting == made.added["lighting"]
    assert expand("VIVI in a jazz bar", trigger="VIVI", seed=3) == made.text
    assert len({expand("VIVI in a jazz bar", trigger="VIVI", seed=seed) for seed in range(20)}) > 10


def test_a_bare_trigger_word_gets_a_place_too() -> None:
    made = expansion("VIVI", trigger="VIVI")
    assert set(made.added) == {"setting", "lighting", "camera", "mood"}
    assert names(made.text, "VIVI")


@pytest.mark.parametrize("prompt", [entry.text("VIVI") for entry in built_in()[::9]])
def test_a_full_prompt_is_not_contradicted(prompt: str) -> None:
    added = expansion(prompt, trigger="VIVI").added
    assert "setting" not in added or not parse(prompt).setting
    assert "camera" not in added or not parse(prompt).camera


@pytest.mark.parametrize("prompt", ["VIVI riding a horse", "VIVI as an astronaut with a red flag", "VIVI sleeping"])
def test_no_place_is_invented_for_what_may_not_go_there(prompt: str) -> None:
    for seed in range(8):
        made = expansion(prompt, trigger="VIVI", seed=seed)
        assert set(made.added) == {"lighting", "camera", "mood"} and made.text.startswith(f"{prompt}, ")
    assert place_of("VIVI at a birthday party") == "indoors"


def test_nothing_is_added_against_what_is_said() -> None:
    for seed in range(12):
        assert "lighting" not in expansion("VIVI on the beach at sunset", trigger="VIVI", seed=seed).added
        close = expand("close-up of VIVI in a kitchen", trigger="VIVI", seed=seed)
        assert read_prompt(close).framing == "close-up" and "wide" not in close
        assert "sun" not in expand("VIVI on a street at midnight", trigger="VIVI", seed=seed)
    assert place_of("VIVI on the moonlit beach") == "night" and place_of("VIVI") == ""


WORDS = ("TOK", "vivi", "VIVI", "in", "on", "at", "a", "the", "red", "coat", "standing", "walking", "light", "lens")
SIGNS = ("35mm", ",", ".", ";", "|", "{TOK}", "mood", "of", "\n", "night", "f/1.8", "--", "'", '"', "é", "東京", "5.5")
CLAUSES = st.sampled_from((*WORDS, *SIGNS))
ANYTHING = st.one_of(st.text(max_size=80), st.lists(CLAUSES, max_size=25).map(" ".join))


@settings(max_examples=300, deadline=None)
@given(ANYTHING, st.sampled_from(["subject", "style", "product"]), st.integers(0, 9))
def test_whatever_is_written_keeps_its_words_and_gets_the_trigger_word(text: str, kind: Kind, seed: int) -> None:
    assert words(parse(text).text()) == words(text)
    once = expand(text, trigger="VIVI", seed=seed, kind=kind)
    assert names(once, "VIVI") and expand(once, trigger="VIVI", seed=seed, kind=kind).startswith(once)


def test_a_prompt_in_a_style_gets_a_place_too() -> None:
    made = expansion("a chocolate cake", trigger="VINTG", kind="style")
    assert made.text.startswith("a chocolate cake in the style of VINTG ") and "setting" in made.added


def test_a_prompt_that_fills_the_limit_is_left_alone() -> None:
    long = "VIVI " + "very " * ((MAX_PROMPT - 10) // 5) + "tall"
    made = expansion(long, trigger="VIVI")
    assert made.text == long and made.added == {}
    assert made.layers.lighting == ""
