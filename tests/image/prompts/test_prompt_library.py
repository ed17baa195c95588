"""The prompt library: ours is varied and names nobody; the user's own is kept, found again, and rated."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from vividcover.errors import NotFoundError, ParameterError, StorageError, VividCoverError
from vividcover.image.prompt import read_prompt
from vividcover.image.prompts.library import Library, built_in


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home" / "prompts.json")


def test_there_are_prompts_for_what_people_make(library: Library) -> None:
    counts = library.categories()
    assert {"professional", "casual", "fantasy", "action", "stage", "style", "product"} <= set(counts)
    assert len(built_in()) >= 120 and min(counts.values()) >= 10


def test_every_one_of_ours_has_all_layers_and_its_trigger_word_early() -> None:
    for entry in built_in():
        assert entry.layers.missing() == (), entry.name
        assert "{TOK}" in entry.layers.subject and not entry.layers.subject.endswith("."), entry.name
        text = entry.text("VIVI")
        assert "VIVI" in text and "{" not in text and "|" not in text and "  " not in text
        assert 80 < len(text) < 400, entry.name


def test_no_two_of_ours_share_name_action_setting_light_or_mood() -> None:
    for what in ("action", "setting", "lighting", "mood"):
        said = [getattr(entry.layers, what) for entry in built_in()]
        assert len(set(said)) == len(said), what
    assert len({entry.name for entry in built_in()}) == len(built_in())
    assert len({entry.layers.camera for entry in built_in()}) > 0.95 * len(built_in())


def test_ours_say_neither_he_nor_she_so_that_they_fit_whom_the_word_stands_for() -> None:
    for entry in built_in():
        assert not re.search(r"\b(he|she|his|her|hers|him|man|woman|boy|girl)\b", entry.line), entry.name


def test_the_stage_prompts_are_understood_by_the_classic_engine_too() -> None:
    stage = [read_prompt(e.text("VIVI"), trigger_word="VIVI") for e in built_in() if e.category == "stage"]
    assert all(asked.trigger and (asked.scene_given or asked.light or asked.elements) for asked in stage)
    assert len({asked.scene for asked in stage}) >= 5


def test_one_is_kept_found_again_and_forgotten(library: Library) -> None:
    added = library.add("VIVI under a paper umbrella, on a bridge", trigger="VIVI", tags=["Rain", "rain "])
    assert added.own and added.template == "{TOK} under a paper umbrella, on a bridge"
    assert added.name == "under-paper-umbrella-bridge"
    again = Library(library.file)
    assert again.get(added.name).tags == ("rain",)
    assert again.find("umbrella", category="own") == [again.get(added.name)] == again.find(tag="rain")
    again.remove(added.name)
    with pytest.raises(NotFoundError):
        library.get(added.name)


def test_what_worked_comes_first_and_says_with_what(library: Library) -> None:
    library.rate("mic-close", 3)
    library.rate("mic-close", 5, image="vivi", seed=42, note="great hands")
    library.rate("opera", 2)
    found = library.find(category="stage")
    assert found[0].name == "mic-close" and found[0].stars == 4.0
    assert found[0].ratings[1] == {"stars": 5, "image": "vivi", "seed": 42, "note": "great hands"}
    assert [entry.name for entry in library.find(worked=True)] == ["mic-close"]


def test_a_prompt_that_worked_is_remembered_by_its_text(library: Library) -> None:
    ours = built_in()[0]
    assert library.remember(ours.text("VIVI"), "VIVI", 5).name == ours.name
    new = library.remember("VIVI feeding swans", "VIVI", 4, image="vivi")
    assert new.own and new.stars == 4 and library.remember("VIVI feeding swans", "VIVI", 2).stars == 3
    assert len(library.find(category="own")) == 1


def test_words_are_found_by_their_beginnings(library: Library) -> None:
    rain = {entry.name for entry in library.find("rain")}
    assert {"neon-rain", "puddle-jump"} <= rain and "night-train" not in rain
    assert library.find("umb red") and not library.find("rain zebra")


def test_ours_can_be_tagged_but_not_removed(library: Library) -> None:
    assert library.tag("opera", ["my album"]).tags == ("my album",)
    with pytest.raises(ParameterError, match="comes with the program"):
        library.remove("opera")


def test_ours_can_be_replaced_by_one_of_the_same_name(library: Library) -> None:
    with pytest.raises(ParameterError, match="already"):
        library.add("{TOK} singing", name="opera")
    assert library.add("{TOK} singing", name="opera", replace=True).own
    assert library.get("opera").template == "{TOK} singing" and len(library.entries()) == len(built_in())


def test_files_of_prompts_are_taken_whole_or_not_at_all(library: Library, tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text('[garden]\nroses = "{TOK} | pruning roses | in a garden"\nbees = "{TOK} keeping bees"\n')
    assert [e.name for e in library.add_file(toml)] == ["roses", "bees"]
    assert library.get("roses").text("VIVI") == "VIVI pruning roses in a garden"
    text = tmp_path / "mine.txt"
    text.write_text("# a comment\n\nVIVI on a trapeze\nno word here\n")
    with pytest.raises(ParameterError, match="no word here"):
        library.add_file(text, trigger="VIVI")
    assert not library.find("trapeze")
    text.write_text("VIVI on a trapeze\nVIVI on a seesaw\n", encoding="utf-8-sig")
    assert len(library.add_file(text, trigger="VIVI", category="playground")) == 2
    with pytest.raises(ParameterError, match="there already"):
        library.add_file(toml)


@pytest.mark.parametrize(
    ("content", "name"), [("", "x.txt"), ("[a", "x.toml"), ("a = 1", "x.toml"), ('[a]\nb = ["c"]', "x.toml")]
)
def test_a_file_that_is_none_of_prompts_is_refused(library: Library, tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ParameterError, match=name):
        library.add_file(tmp_path / name)


def test_a_file_that_is_not_there_or_not_text_is_named(library: Library, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no\.txt"):
        library.add_file(tmp_path / "no.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ParameterError, match=r"b\.txt"):
        library.add_file(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("line", "more"),
    [("a red bicycle", {}), ("{TOK}" + " x" * 1100, {}), ("{TOK}", {"name": "No Good"}), ("a|{TOK}" + "|c" * 6, {}),
     ("{TOK}", {"category": "A B"})],
)  # fmt: skip
def test_what_cannot_be_kept_is_said(library: Library, line: str, more: dict[str, str]) -> None:
    with pytest.raises(ParameterError) as said:
        library.add(line, **more)  # type: ignore[arg-type]
    assert said.value.hint
    assert not library.find(category="", tag="x") and not (library.file and library.file.exists())


def test_unknown_names_categories_and_stars_are_said_with_what_there_is(library: Library) -> None:
    with pytest.raises(NotFoundError, match="opera"):
        library.get("oprea")
    with pytest.raises(ParameterError, match="fantasy"):
        library.find(category="fantsy")
    with pytest.raises(ParameterError, match="6 stars"):
        library.rate("opera", 6)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 9, "prompts": {}, "ratings": {}, "tags": {}}', '{"format": 1, "prompts": []}']
)
def test_a_damaged_library_is_named_and_left_as_it_is(library: Library, content: str) -> None:
    assert library.file
    library.file.parent.mkdir()
    library.file.write_text(content)
    for use in (library.entries, lambda: library.rate("opera", 5)):
        with pytest.raises(ParameterError, match=r"prompts\.json"):
            use()
    assert library.file.read_text() == content


def test_two_at_once_lose_nothing(library: Library) -> None:
    def work(i: int) -> None:
        Library(library.file).add(f"{{TOK}} number {i}", name=f"n{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(library.find(category="own")) == 8
    assert library.file and json.loads(library.file.read_text())["format"] == 1


def test_a_library_without_a_file_keeps_nothing() -> None:
    with pytest.raises(StorageError):
        Library().rate("opera", 5)
    assert len(Library().entries()) == len(built_in())


def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VividCoverError) as said:
        Library(tmp_path / "file" / "prompts.json").rate("opera", 5)
    assert said.value.hint
