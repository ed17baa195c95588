"""A batch: painted, scored, ranked; what fails is noted; what was finished is not painted again."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vividcover.errors import Canceled, EngineError, ImageError, ParameterError, StorageError
from vividcover.image.batch import Batch, Painted, batch
from vividcover.image.prompts.rows import Row, read_rows
from vividcover.image.score.measures import Sharpness
from vividcover.image.score.panel import Judged, Panel, Rgb
from vividcover.workspace import Reporter, Silent


class Engine:
    """Paints flat pictures whose brightness is the seed; counts what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[Row]()
        self.fail: dict[str, Exception] = {}

    def __call__(self, row: Row, reporter: Reporter) -> list[Painted]:
        self.asked.append(row)
        reporter.progress(0.5, "painting")
        if row.prompt in self.fail:
            raise self.fail[row.prompt]
        assert row.seed is not None
        made = []
        for seed in range(row.seed, row.seed + row.count):
            file = self.folder / f"{len(self.asked)}-{seed}.png"
            Image.fromarray(np.full((32, 48, 3), seed % 256, np.uint8)).save(file)
            made.append(Painted(seed, file))
        return made


def brightness(pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[Judged]:
    return [Judged({"light": float(p.mean())}, float(p.mean()) / 255) for p in pictures]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    (tmp_path / "engine").mkdir()
    return Engine(tmp_path / "engine")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


ROWS = [
    {"prompt": "VIVI, dark", "seed": 10, "count": 3},
    {"prompt": "VIVI, bright", "seed": 200, "count": 2, "aspect_ratio": "16:9"},
]


def run(engine: Engine, out: Path, rows: list[Any] | None = None, **more: Any) -> Batch:
    given = {"score": brightness, "top": 2, "scored_by": "light"} | more
    return batch(read_rows(ROWS if rows is None else rows), engine, folder=out, **given)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_painted_scored_ranked_and_the_best_are_chosen(engine: Engine, out: Path) -> None:
    done = run(engine, out)
    assert [shot.seed for shot in done.shots] == [201, 200, 12, 11, 10]
    assert [path.name[:3] for path in done.top] == ["01-", "02-"] and all(path.is_file() for path in done.top)
    rows = table(out)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[0]["light"] == "201.00000" and rows[0]["chosen"] == "yes" and rows[0]["aspect_ratio"] == "16:9"
    assert all((out / row["file"]).is_file() for row in rows)
    sheet = Image.open(out / "contact.jpg")
    assert sheet.width > 5 * 256 and b"AI-generated" in (out / "contact.jpg").read_bytes()
    assert done.report()["pictures"] == 5 and json.dumps(done.report())


def test_the_best_may_be_spread_over_the_rows(engine: Engine, out: Path) -> None:
    done = run(engine, out, top=2, per_row=1)
    assert [path.stem.rsplit("-", 1)[1] for path in done.top] == ["201", "12"]


def test_a_second_call_paints_only_what_is_new(engine: Engine, out: Path) -> None:
    first = run(engine, out)
    assert len(engine.asked) == 2
    more = [{"prompt": "VIVI, new", "seed": 90}, *ROWS]
    again = run(engine, out, more)
    assert [row.prompt for row in engine.asked[2:]] == ["VIVI, new"]
    assert {s.file for s in first.shots} < {s.file for s in again.shots} and again.shots[0].row == 3
    (out / "pictures" / again.shots[0].file.name).unlink()
    run(engine, out, more)
    assert engine.asked[3].prompt == "VIVI, bright"


def test_another_model_paints_everything_anew_and_other_scores_only_score(engine: Engine, out: Path) -> None:
    run(engine, out, about={"image": "a"})
    run(engine, out, about={"image": "b"})
    assert len(engine.asked) == 4
    panel = Panel([Sharpness()])
    done = run(engine, out, about={"image": "b"}, score=panel.judge, scored_by=panel.legend())
    assert len(engine.asked) == 4 and set(done.shots[0].values) == {"sharpness"}


def test_rows_without_a_seed_keep_theirs_when_lines_come_and_go(engine: Engine, out: Path) -> None:
    run(engine, out, ["VIVI one", "VIVI one", "VIVI two"])
    seeds = [row.seed for row in engine.asked]
    assert len(set(seeds)) == 3
    run(engine, out, ["VIVI zero", "VIVI two", "VIVI one", "VIVI one"])
    assert [row.prompt for row in engine.asked[3:]] == ["VIVI zero"]
    run(engine, out, ["VIVI two"], seed=1)
    assert engine.asked[-1].seed not in seeds


def test_a_row_that_is_at_fault_is_noted_and_the_others_are_painted(engine: Engine, out: Path) -> None:
    engine.fail["VIVI, dark"] = ImageError("Every picture was held back.", "Change the prompt.")
    told = Silent()
    done = run(engine, out, reporter=told)
    assert done.failed == [(1, "Every picture was held back. Change the prompt.")] and len(done.shots) == 2
    assert table(out)[-1]["error"].startswith("Every picture") and "line 1 was not painted" in told.notes[0]
    engine.fail.clear()
    assert not run(engine, out).failed


def test_when_no_row_could_be_painted_it_is_an_error(engine: Engine, out: Path) -> None:
    engine.fail = {row["prompt"]: ImageError("Held back.") for row in ROWS}  # type: ignore[misc]
    with pytest.raises(ImageError, match="None of the 2 rows"):
        run(engine, out)
    assert len(table(out)) == 2 and not (out / "contact.jpg").exists()


@pytest.mark.parametrize("error", [EngineError("The GPU is gone."), Canceled(), ValueError("a defect")])
def test_any_other_error_ends_it_and_what_was_finished_stays(engine: Engine, out: Path, error: Exception) -> None:
    engine.fail["VIVI, bright"] = error
    with pytest.raises(type(error)):
        run(engine, out)
    engine.fail.clear()
    done = run(engine, out)
    assert [row.prompt for row in engine.asked] == ["VIVI, dark", "VIVI, bright", "VIVI, bright"]
    assert len(done.shots) == 5


def test_scores_that_fail_do_not_cost_the_pictures(engine: Engine, out: Path) -> None:
    def broken(pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[Judged]:
        raise EngineError("CLIP is gone.")

    with pytest.raises(EngineError):
        run(engine, out, score=broken)
    run(engine, out)
    assert len(engine.asked) == 2


def test_it_stops_where_the_user_says_so(engine: Engine, out: Path) -> None:
    class Stop(Silent):
        def progress(self, fraction: float, text: str = "") -> None:
            if fraction > 0.4:
                raise Canceled

    with pytest.raises(Canceled):
        run(engine, out, reporter=Stop())
    assert len(json.loads((out / "batch.json").read_text())["rows"]) == 1


def test_without_scores_there_is_a_sheet_but_no_best(engine: Engine, out: Path) -> None:
    done = run(engine, out, score=None, top=0)
    assert not done.top and not done.shots[0].values and table(out)[0]["total"] == ""
    with pytest.raises(ParameterError, match="nothing scores"):
        run(engine, out, score=None)


def test_variety_within_a_row_is_told(engine: Engine, out: Path) -> None:
    done = run(engine, out, [{"prompt": "a", "seed": 0, "count": 2}, {"prompt": "b", "seed": 255, "count": 2}])
    assert done.variety[1] < 0.05 < done.variety[2]  # 0 and 1; 255 and 256, which is black


def test_two_in_one_folder_and_a_foreign_folder_are_refused(engine: Engine, out: Path) -> None:
    def inside(row: Row, reporter: Reporter) -> list[Painted]:
        with pytest.raises(StorageError, match="Another batch"):
            run(engine, out)
        return engine(row, reporter)

    batch(read_rows(["VIVI"]), inside, folder=out)
    (out / "batch.json").write_text("[]")
    with pytest.raises(ParameterError, match=r"batch\.json"):
        run(engine, out)


def test_own_files_among_the_best_are_left_alone(engine: Engine, out: Path) -> None:
    run(engine, out)
    (out / "top" / "notes.txt").write_text("mine")
    assert len(run(engine, out, top=1).top) == 1
    assert sorted(p.name[:3] for p in (out / "top").iterdir()) == ["01-", "not"]


def test_a_picture_that_cannot_be_read_is_named(engine: Engine, out: Path) -> None:
    def torn(row: Row, reporter: Reporter) -> list[Painted]:
        file = engine.folder / "torn.png"
        file.write_bytes(b"no picture")
        return [Painted(1, file)]

    with pytest.raises(ImageError, match="cannot be read as a picture"):
        batch(read_rows(["VIVI"]), torn, brightness, top=1, folder=out)
