"""A worker and its warm child, as real processes: what is asked for is done, told, stopped and limited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from run_making import add, alive, children_of, finished, opened, row, stage_rows, told, until, worker
from vividcover.runs import bell, states
from vividcover.runs.drive import Drive
from vividcover.runs.runner import bar
from vividcover.runs.worker import Worker
from vividcover.settings import settings
from vividcover.store.artifacts import Artifacts
from vividcover.store.database import Database
from vividcover.store.tables import versions


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(settings().database_url) as database:
        yield database


def begun(database: Database, run_id: str) -> None:
    until(lambda: row(database, run_id)["status"] == "processing")


def test_runs_are_carried_out_and_told(database: Database) -> None:
    with worker():
        plain = finished(database, add(database, input={"text": "you"}))
        assert (plain["status"], plain["output"]) == ("succeeded", {"items": ["hello there, you"]})
        assert plain["engine"] == "classic" and plain["metrics"]["predict_time"] < plain["metrics"]["total_time"]

        staged = add(database, input={"text": "you", "repeat": 3, "seconds": 0.05})
        assert finished(database, staged)["output"] == {"items": ["hello there, you", " (2)", " (3)"]}
        assert told(database, staged, "output") == ["hello there, you", " (2)", " (3)"]
        assert [stage["name"] for stage in stage_rows(database, staged)] == ["hello/piece"] * 3

        failed = finished(database, add(database, input={"fail": True}))
        assert failed["status"] == "failed" and failed["error"].startswith("It was asked to fail.")

        wrong = finished(database, add(database, input={"repeat": 0, "tex": 1}))
        assert wrong["status"] == "failed" and "repeat=0" in wrong["error"] and "did you mean 'text'" in wrong["error"]

        unknown = finished(database, add(database, serves="nobody/nothing"))
        assert unknown["status"] == "failed" and "There is no model 'nobody/nothing'" in unknown["error"]


def test_pieces_and_progress_can_be_read_while_it_runs(database: Database) -> None:
    with worker():
        run_id = add(database, input={"repeat": 2, "seconds": 1.2})
        until(lambda: told(database, run_id, "output") == ["hello there, world"])
        assert row(database, run_id)["status"] == "processing"
        assert row(database, run_id)["output"] == {"items": ["hello there, world"]}
        assert any(line.strip().endswith("/100") for line in told(database, run_id))
        states.request_cancel(database, run_id)
        assert finished(database, run_id)["status"] == "canceled"


def test_progress_is_said_as_the_clients_read_it() -> None:
    import re

    for fraction, percent in ((-1, 0), (0, 0), (0.456, 46), (1, 100), (2, 100)):
        line = bar(fraction)
        found = re.search(r"^\s*(?P<percentage>\d+)%\s*\|.+?\|\s*(?P<current>\d+)\/(?P<total>\d+)", line)
        assert found and int(found["percentage"]) == percent == int(found["current"]) and found["total"] == "100"


def test_a_running_run_is_gone_within_a_second_of_cancel(database: Database) -> None:
    with worker():
        finished(database, add(database))
        run_id = add(database, input={"seconds": 60})
        begun(database, run_id)
        asked = time.monotonic()
        states.request_cancel(database, run_id)
        over = finished(database, run_id)
        assert time.monotonic() - asked < 1.0
        assert over["status"] == "canceled" and over["error"] is None
        assert finished(database, add(database))["status"] == "succeeded", "the next one is none the worse"


def test_one_that_does_not_heed_is_killed_within_a_second_with_all_that_it_started(database: Database) -> None:
    with worker() as process:
        run_id = add(database, input={"seconds": 60})
        begun(database, run_id)
        stubborn = children_of(process.pid)
        for child in stubborn:
            os.kill(child, signal.SIGSTOP)  # it hears nothing any more
        asked = time.monotonic()
        states.request_cancel(database, run_id)
        assert finished(database, run_id)["status"] == "canceled"
        assert time.monotonic() - asked < 1.0
        until(lambda: not any(alive(child) for child in stubborn), 1.0)
        assert finished(database, add(database))["status"] == "succeeded"


def test_cancel_reaches_a_run_whose_child_is_still_starting(database: Database) -> None:
    with worker():
        run_id = add(database, input={"seconds": 60})
        until(lambda: row(database, run_id)["lease_owner"])
        states.request_cancel(database, run_id)
        assert finished(database, run_id, 3)["status"] == "canceled"


def test_a_deadline_and_the_limit_of_the_house_end_a_run(database: Database) -> None:
    with worker(VIVIDCOVER_RUN_LIMIT_SECONDS="1.5"):
        finished(database, add(database))
        late = finished(database, add(database, input={"seconds": 60}, deadline_in=0.7))
        assert late["status"] == "canceled" and late["metrics"]["total_time"] < 2
        long = finished(database, add(database, input={"seconds": 60}))
        assert long["status"] == "failed" and "longer than the 1.5 seconds" in long["error"]


def test_a_deadline_passes_in_the_line_while_the_only_worker_is_busy(database: Database) -> None:
    with worker():
        long = add(database, input={"seconds": 60})
        begun(database, long)
        waits = add(database, deadline_in=1.0, aborts=True)
        assert finished(database, waits, 5)["status"] == "aborted"
        assert row(database, long)["status"] == "processing"


def test_a_child_that_dies_is_replaced_and_the_run_goes_on_where_it_was(database: Database) -> None:
    with worker() as process:
        run_id = add(database, input={"repeat": 3, "seconds": 0.4})
        until(lambda: len(stage_rows(database, run_id)) == 2)
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        assert finished(database, run_id)["status"] == "succeeded"
        assert any("ended by signal 9" in line for line in told(database, run_id))
        assert told(database, run_id, "output") == ["hello there, world", " (2)", " (3)"], "nothing was said twice"
        assert [(one["hit"], one["fence"]) for one in stage_rows(database, run_id)] == [
            (False, 1),
            (False, 1),
            (False, 2),
        ]


def test_a_run_whose_child_always_dies_fails_in_the_end(database: Database) -> None:
    with worker() as process:
        run_id = add(database, input={"seconds": 60})

        def over() -> bool:
            for child in children_of(process.pid):
                os.kill(child, signal.SIGKILL)
            return row(database, run_id)["status"] == "failed"

        until(over, 30, every=0.2)
        assert "its process died each time" in row(database, run_id)["error"]


def test_a_defect_that_meets_one_run_ends_that_run_and_not_the_worker(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Worker(settings())
    run_id = add(database)

    def break_down(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(Drive, "_wait", break_down)
    with bell.Listener("work") as chosen.bell, bell.Listener("cancel") as chosen.cancels:
        chosen._turn()
    assert row(database, run_id)["status"] == "failed"
    assert row(database, run_id)["error"] == "Something unforeseen happened: KeyError: 'a defect'"
    chosen.children.close()
    chosen.database.close()


def test_a_worker_that_is_asked_to_end_gives_its_run_back(database: Database) -> None:
    with worker() as process:
        run_id = add(database, input={"seconds": 1.0})
        begun(database, run_id)
        process.terminate()
        assert process.wait(3) == 0
    left = row(database, run_id)
    assert left["status"] == "processing" and left["attempts"] == 0
    with worker():
        assert finished(database, run_id)["status"] == "succeeded"


def test_children_do_not_outlive_their_worker(database: Database) -> None:
    with worker() as process:
        run_id = add(database, input={"seconds": 60})
        begun(database, run_id)
        orphans = children_of(process.pid)
        assert orphans
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not any(alive(child) for child in orphans), 1.0)


def test_two_kinds_of_model_have_a_child_each(database: Database) -> None:
    with worker() as process:
        for serves in ("vividcover/hello", "replicate/fast-flux-trainer", "vividcover/hello"):
            shape = "stream" if serves == "vividcover/hello" else "text"
            values = {} if shape == "stream" else {"txt": "some words"}
            found = finished(database, add(database, serves=serves, model=serves, input=values, output_shape=shape))
            assert found["status"] == "succeeded"
        assert len(children_of(process.pid)) == 2


def test_a_training_makes_a_version_that_runs_at_once_with_its_weights(
    database: Database, sample: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as photos:
        for name in ("01.jpg",):
            photos.write(sample / "photos" / name, name)
    sha = Artifacts.of(settings()).put_file(tmp_path / "photos.zip")
    link = "http://127.0.0.1:5000/v1/files/abc"
    with worker():
        training = add(
            database, kind="training", model="replicate/fast-flux-trainer", serves="replicate/fast-flux-trainer",
            input={"input_images": link, "trigger_word": "VIVI"}, consent="Vivi does not exist.",
            files={link: {"sha256": sha, "name": "../../photos.zip"}}, destination="alice/vivi",
            output_shape="training",
        )  # fmt: skip
        made = finished(database, training, 120)
        assert made["status"] == "succeeded", made["error"]
        model, _, version = made["output"]["version"].partition(":")
        assert model == "alice/vivi" and made["output"]["files"][0]["name"] == "trained_model.tar"
        with database.read() as db:
            kept = db.execute(sa.select(versions).where(versions.c.id == version)).mappings().one()
        assert (kept["trigger_word"], kept["dataset"], kept["engine"]) == ("VIVI", sha, "classic")
        assert kept["consent"] == "Vivi does not exist."
        drawn = add(
            database, model=model, version=version, serves=kept["serves"], weights=kept["weights"],
            output_shape="files", input={
                "prompt": "VIVI on stage", "aspect_ratio": "custom", "width": 256, "height": 256, "num_outputs": 2,
            },
        )  # fmt: skip
        pictures = finished(database, drawn, 60)
        assert pictures["status"] == "succeeded", pictures["error"]
        assert [file["name"] for file in pictures["output"]["files"]] == ["out-0.webp", "out-1.webp"]
        assert any(line.startswith("Using seed: ") for line in told(database, drawn))


def test_no_input_is_ever_a_path_of_this_machine(database: Database, sample: Path) -> None:
    trainer = {"model": "zsxkib/create-rvc-dataset", "serves": "zsxkib/create-rvc-dataset", "output_shape": "file"}
    clip = next((sample / "voice").glob("*.flac"))
    with worker():
        for path in (str(clip), f"file://{clip}", "vivi"):
            refused = finished(database, add(database, **trainer, input={"youtube_url": path}))
            assert refused["status"] == "failed" and "link" in refused["error"]


def test_the_command_works_off_runs_until_it_is_interrupted(database: Database) -> None:
    code = "from vividcover.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "worker"], stderr=subprocess.PIPE, text=True)
    try:
        assert finished(database, add(database))["status"] == "succeeded"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=5)[1] == "" and process.returncode == 0
    finally:
        process.kill()


def test_the_command_says_which_database_it_cannot_use(tmp_path: Path) -> None:
    code = "from vividcover.cli import main; main()"
    tried = subprocess.run(
        [sys.executable, "-c", code, "worker"], capture_output=True, text=True, timeout=30,
        env=os.environ | {"VIVIDCOVER_DATABASE": f"sqlite:///{tmp_path}"},
    )  # fmt: skip
    assert tried.returncode == 6 and str(tmp_path) in tried.stderr and "Traceback" not in tried.stderr
