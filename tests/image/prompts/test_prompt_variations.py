"""Ten varied prompts: each names the trigger word and its meaning once, and none repeats another."""

from __future__ import annotations

import json
import re

import pytest

from vividcover.errors import EngineError, ParameterError
from vividcover.image.prompts.concepts import role_of
from vividcover.image.prompts.layers import names, parse
from vividcover.image.prompts.library import Library
from vividcover.image.prompts.variations import asked, instructions, read_answer, variations

CLOTHES = re.compile(r"\b(?:suit|coat|jacket|dress|shirt|sweater|cape|cloak|boots|cardigan|turtleneck|gown|gear)\b")
WHO = "a woman in her 40s with short grey hair"


@pytest.mark.parametrize("seed", range(8))
def test_ten_prompts_differ_in_everything(seed: int) -> None:
    made = variations(WHO, "VIVI", seed=seed)
    assert len(made) == 10 == len({v.category for v in made})
    for part in ("action", "setting", "lighting", "camera", "mood"):
        assert len({getattr(v.layers, part) for v in made}) == 10, part
    for v in made:
        assert v.text.count(WHO) == 1 and v.text.startswith("VIVI, ") and not v.layers.missing()
        assert parse(v.text).lighting


def test_the_same_seed_writes_the_same_and_another_writes_others() -> None:
    assert variations(WHO, "VIVI", seed=1) == variations(WHO, "VIVI", seed=1)
    texts = {v.text for seed in range(10) for v in variations(WHO, "VIVI", seed=seed)}
    assert len(texts) > 80


def test_products_and_styles_have_scenes_of_their_own() -> None:
    assert {v.category for v in variations("a teapot", "TEAX", kind="product")} == {"product"}
    styled = variations("1970s cookbook photography", "VINTG", kind="style")
    assert all("in the style of VINTG, 1970s cookbook photography" in v.text for v in styled)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("concept", "said"),
    [
        ("a rock concert", "VIVI at a rock concert, "), ("jazz festival", "VIVI at a jazz festival, "),
        ("old harbour", "VIVI at an old harbour, "), ("the beach", "VIVI on the beach, "),
        ("Venice at night", "VIVI in Venice at night, "), ("a teapot of blue glass", "VIVI, a teapot of blue glass, "),
        ("a corgi", "VIVI, a corgi, "),
    ],
)  # fmt: skip
def test_only_persons_wear_clothes_and_one_is_at_an_occasion_or_a_place(concept: str, said: str, seed: int) -> None:
    made = variations(concept, "VIVI", seed=seed)
    assert len({v.text for v in made}) == 10
    for v in made:
        assert v.text.startswith(said)
        assert not CLOTHES.search(v.text), v.text


@pytest.mark.parametrize("concept", ["a rock concert", "a teapot", "a corgi", "a beach"])
def test_in_a_style_it_is_what_is_shown(concept: str) -> None:
    assert all(
        v.text.startswith(f"{concept} in the style of VIVI, ") for v in variations(concept, "VIVI", kind="style")
    )


@pytest.mark.parametrize(
    "concept",
    [WHO, "", "a wedding singer", "a woman in an old kitchen", "a man with his dog", "a girl sitting at a table",
     "Vivi", "the boy next door", "a street musician", "a robot", "a king of the city",
     "a woman's portrait, on a beach"],
)  # fmt: skip
def test_whatever_may_be_a_person_is_one(concept: str) -> None:
    assert role_of(concept) == ""


def test_the_categories_that_were_asked_for_are_kept_to_for_things_too() -> None:
    for concept in ("a teapot", "a corgi", "a rock concert"):
        made = variations(concept, "VIVI", 5, categories=["stage"])
        assert {v.category for v in made} == {"stage"} and len({v.layers.lighting for v in made}) == 5


def test_more_than_there_are_scenes_are_written_too() -> None:
    made = variations("", "VIVI", 30, categories=["stage"])
    assert len(made) == 30 and len({v.layers.action for v in made[:12]}) == 12
    assert len({v.text for v in made}) == 30


def test_a_clear_face_and_further_wishes_are_in_every_one() -> None:
    for v in variations(WHO, "VIVI", 20, clear_face=True, constraints=["wearing a green scarf."]):
        assert "the face unobscured" in v.text and v.text.endswith(", wearing a green scarf")
        assert not {"helmet", "mask", "visor"} & set(v.text.split())


def test_own_prompts_can_be_varied() -> None:
    library = Library()
    entries = [e for e in library.entries() if e.name == "opera"]
    assert all("final note" in v.text for v in variations("", "VIVI", 2, entries=entries))
    print_ = [e for e in library.entries() if e.name == "linocut"]  # no lens in it that could be changed
    with pytest.raises(ParameterError, match="Only 1 different"):
        variations("", "VIVI", 2, entries=print_)


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": 101}, {"trigger": " "}, {"categories": ["no"]}])
def test_what_cannot_be_written_is_said(bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        variations(**({"concept": WHO, "trigger": "VIVI"} | bad))  # type: ignore[arg-type]


def test_a_language_model_is_asked_as_the_guides_say() -> None:
    text = instructions("a fictitious person named ZIKI", "ZIKI", clear_face=True, constraints=["ZIKI is 43 years old"])
    assert text.startswith(
        "Write ten prompts for an image generation model. The prompts should describe a fictitious person named ZIKI "
        "in various scenarios. Make sure to use the word ZIKI in all caps in every prompt."
    )
    assert "unobscured facial details" in text and "ZIKI is 43 years old." in text
    assert "Write 40 prompts" in instructions("x", "ZIKI", 40) and "exactly so" in instructions("x", "Ziki")


PLAIN = "1. ZIKI painting a mural on a city wall\n2) **Close-up of Ziki in the rain at dusk**\n3. A sailor on deck"


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>\n1. maybe ZIKI at the sea?\n</think>\nHere are three prompts:\n\n{PLAIN}\n\nEnjoy!",
        "```json\n" + json.dumps([line[3:] for line in PLAIN.splitlines()]) + "\n```",
        json.dumps({"prompts": [{"prompt": line[3:]} for line in PLAIN.splitlines()]}),
        "Sure:\n" + "\n".join(f'- "{line[3:]}"' for line in PLAIN.splitlines()),
    ],
)
def test_answers_are_read_in_whatever_form_and_the_word_is_put_right(answer: str) -> None:
    found = read_answer(answer, "ZIKI")
    assert found[0] == "ZIKI painting a mural on a city wall"
    assert found[1:] == ["Close-up of ZIKI in the rain at dusk", "ZIKI, A sailor on deck"]
    made = asked(lambda _: answer, "a person", "ZIKI", 3)
    assert all(names(v.text, "ZIKI") for v in made) and made[1].layers.setting == "in the rain at dusk"


def test_an_answer_that_holds_too_few_is_an_error_and_not_filled_up() -> None:
    with pytest.raises(EngineError, match="2 prompts of the 10"):
        asked(lambda _: "1. ZIKI one\n2. ZIKI two", "a person", "ZIKI")
    with pytest.raises(EngineError):
        asked(lambda _: "I cannot help with that.", "a person", "ZIKI")
