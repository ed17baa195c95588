"""Trigger words: a registry of who answers to what, and warnings before two LoRAs get into each other's way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vividcover.errors import NotFoundError, ParameterError
from vividcover.image.flux.triggers import Model, Triggers, absent, clashes, problems


def test_words_that_no_prompt_has_by_chance_are_good() -> None:
    good = ["CYBRPNK", "TOKV2", "XJ9KLM", "ZIKI", "BRANDONX", "RETROSTYLE70S", "MK_ULTRA", "VANGOGH_IMPASTO", "АЛИСА"]
    assert [word for word in good if problems(word)] == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("TOK", "very many LoRAs"), ("tok", "very many LoRAs"), ("sks", "very many LoRAs"), ("ZK", "so short"),
        ("style", "prompts have anyway"), ("Person", "prompts have anyway"), ("CYBERPUNK", "prompts have anyway"),
        ("vintage", "prompts have anyway"), ("neon_street", "consists of words"), ("purple", "prompts have anyway"),
        ("***", "no letters"),
    ],
)  # fmt: skip
def test_words_that_mean_something_already_are_warned_of(word: str, said: str) -> None:
    (warning,) = problems(word)
    assert said in warning
    assert "CYBRPNK" in warning  # what would be better


def test_two_loras_that_answer_to_one_word_are_warned_of_however_it_is_written() -> None:
    assert clashes([("vivi", "VIVI"), ("poster", "GHIBLISKETCH")]) == []
    assert clashes([("vivi", "VIVI"), ("plain", "")]) == []
    (same,) = clashes([("vivi", "VIVI_X"), ("other", "vivix")])
    assert "vivi and other both answer to VIVI_X and vivix" in same
    (inside,) = clashes([("long", "VIVIANNE"), ("short", "VIVI")])
    assert "VIVI (short) is a part of VIVIANNE (long)" in inside
    three = clashes([("a", "TOK"), ("b", "TOK"), ("c", "TOK")])
    assert sum("both answer to TOK" in warning for warning in three) == 3
    assert sum("very many LoRAs" in warning for warning in three) == 3


def test_a_trigger_word_that_the_prompt_forgot_is_said() -> None:
    worn = [("vivi", "VIVI"), ("style", "VINTG70S"), ("plain", "")]
    assert absent("a cake, vintg70s, with vivi", worn) == []
    (warning,) = absent("VIVI on a stage", worn)
    assert "does not have VINTG70S" in warning


def test_the_registry_keeps_models_by_name_and_version_and_warns_of_a_word_that_is_taken(tmp_path: Path) -> None:
    registry = Triggers(tmp_path / "home" / "triggers.json")
    assert registry.models() == []
    assert registry.add(Model("vivi", "VIVI", "subject", "v1")) == []
    assert registry.add(Model("vivi", "VIVI", "subject", "v2")) == []
    (warning,) = registry.add(Model("impostor", "vivi"))
    assert "impostor and vivi both answer to vivi" in warning
    assert [one.name for one in Triggers(registry.file).using("Vivi")] == ["impostor", "vivi", "vivi"]
    registry.add(Model("impostor", "ANDERS"))
    assert registry.using("ANDERS") == [Model("impostor", "ANDERS")]
    registry.remove("vivi")
    assert registry.models() == [Model("impostor", "ANDERS")]
    with pytest.raises(NotFoundError, match="no model 'vivi'"):
        registry.remove("vivi")


def test_several_trainings_that_end_at_once_all_get_into_the_registry(tmp_path: Path) -> None:
    registry = Triggers(tmp_path / "triggers.json")
    threads = [threading.Thread(target=registry.add, args=(Model(f"m{i}", f"WORD{i}"),)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.models()) == 12


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "models": []}', '{"format": 1, "models": [{"x": 1}]}'])
def test_a_registry_that_cannot_be_read_is_not_overwritten(tmp_path: Path, text: str) -> None:
    file = tmp_path / "triggers.json"
    file.write_text(text)
    with pytest.raises(ParameterError, match="cannot be read"):
        Triggers(file).add(Model("vivi", "VIVI"))
    assert file.read_text() == text
