"""Rows of a batch: read from whatever people save, and every faulty line named before anything is painted."""

from __future__ import annotations

from pathlib import Path

import pytest

from vividcover.errors import NotFoundError, ParameterError
from vividcover.image.prompts.library import Library
from vividcover.image.prompts.rows import RATIOS, Row, read_rows, without_trigger, write_rows

CSV = """prompt,seed,count,aspect_ratio,guidance_scale
"{TOK} on a roof, neon light",7,4,16:9,2.5

VIVI as a sailor,,,,
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.csv"


def test_a_csv_is_read_and_written_back(file: Path) -> None:
    file.write_text(CSV)
    rows = read_rows(file, trigger="VIVI", options=["guidance_scale"])
    assert rows == [
        Row(2, "VIVI on a roof, neon light", 7, 4, "16:9", {"guidance_scale": "2.5"}),
        Row(4, "VIVI as a sailor"),
    ]
    file.write_text(write_rows(rows))
    assert [row.prompt for row in read_rows(file, options=["guidance_scale"])] == [row.prompt for row in rows]


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-8", ","), ("utf-16", ",")]
)
def test_what_spreadsheets_save_is_understood(file: Path, encoding: str, delimiter: str) -> None:
    file.write_text(f"Prompt{delimiter}Seed{delimiter}Aspect Ratio\r\ncafé{delimiter}3.0{delimiter}2x3\r\n", encoding)
    assert read_rows(file) == [Row(2, "café", 3, 1, "2:3")]


def test_a_cell_may_hold_several_lines_and_quotes(file: Path) -> None:
    file.write_text('prompt,seed\n"a ""red""\ncar",1\nb,2\n')
    assert [(row.number, row.prompt) for row in read_rows(file)] == [(3, 'a "red" car'), (4, "b")]


def test_a_text_file_and_a_list_are_prompts_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# mine\nVIVI, smiling\n\nVIVI, sad\n")
    assert [row.number for row in read_rows(tmp_path / "a.txt")] == [2, 4]
    rows = read_rows(["VIVI", {"prompt": "a dog", "seed": 3, "count": None}])
    assert rows[1] == Row(2, "a dog", 3) and without_trigger(rows, "VIVI") == [2] and not without_trigger(rows, "")


def test_a_template_of_the_library_is_filled_in(file: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "prompts.json")
    library.add("{TOK} juggling", name="juggler")
    file.write_text("template,seed\njuggler,1\nopera,2\n")
    rows = read_rows(file, trigger="VIVI", who="a man in his 50s", library=library)
    assert rows[0].prompt == "VIVI, a man in his 50s, juggling" and rows[1].prompt.startswith("VIVI, a man")


def test_all_faulty_lines_are_named_at_once(file: Path) -> None:
    file.write_text(
        "prompt,template,seed,count,aspect_ratio\n"
        "a,,x,1,1:1\na,,-1,1,1:1\na,,1,0,1:1\na,,1,101,1:1\na,,1,1,1:7\n,,1,,\na,opera,,,\n,oprea,,,\n{TOK},,,,\n"
    )
    with pytest.raises(ParameterError) as said:
        read_rows(file)
    message = said.value.message
    assert "Line 2: seed 'x' is not a whole number." in message and "Line 4: count 0" in message
    assert "And 4 more" in message and "nothing was painted" in said.value.hint


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prompt": "a", "aspect_ratio": "1:7"}, "1:7"), ({"seed": 1}, "one of them"), ({"prompt": "{TOK}"}, "TOK"),
        ({"prompt": "a" * 2001}, "2001"), ({"prompt": "a", "template": "b"}, "one of them"),
        ({"prompt": "a", "seed": 2**63}, "between"), ({"prompt": "a", "count": "two"}, "two"),
        ({"template": "oprea"}, "oprea"),
    ],
)  # fmt: skip
def test_each_fault_of_a_row_is_said(row: dict[str, object], part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        read_rows([row])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "no prompts"), ("prompt,seed\n", "no prompts"), ("a cat\na dog\n", "no column `prompt`"),
        ("prompt,sede\na,1\n", "did you mean seed"), ("prompt,prompt\na,b\n", "twice"),
        ("prompt,seed\na cat, at night,1\n", "3 cells"), ('prompt\n"a" b\n', "line 2 is not CSV"),
        ('prompt\n"never closed\n', "is not CSV"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_of_prompts_is_refused(file: Path, content: str, part: str) -> None:
    file.write_text(content)
    with pytest.raises(ParameterError, match=part):
        read_rows(file)


def test_files_that_cannot_be_read_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"prompts\.csv"):
        read_rows(file)
    file.write_bytes(b"prompt\ncaf\xe9\n")
    with pytest.raises(ParameterError, match="UTF-8"):
        read_rows(file)
    with pytest.raises(ParameterError, match="cannot be read"):
        read_rows(tmp_path)
    with pytest.raises(ParameterError, match="10001 rows"):
        read_rows(["a"] * 10_001)


def test_the_ratios_are_those_that_can_be_painted() -> None:
    from vividcover.image.flux.request import ULTRA

    assert set(RATIOS) == {*ULTRA, "custom"}
