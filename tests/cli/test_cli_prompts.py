"""`vividcover prompts …`: found, written, kept, rated, and tables checked before a batch."""

from __future__ import annotations

import csv
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vividcover.cli.prompts import app
from vividcover.settings import settings


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


def rows(*words: str) -> Any:
    status, out, err = call(*words, "--json")
    assert status == 0, err
    return json.loads(out)


def test_the_library_is_listed_searched_and_shown() -> None:
    status, out, _ = call("list", "rain", "--category", "portrait")
    assert status == 0 and "through-glass" not in out and "window-tea" not in out
    assert "umbrella" in call("list", "umbrella")[1]
    assert len(rows("list")) >= 120 and {"name", "layers", "stars"} <= set(rows("list")[0])
    status, out, err = call("show", "opera", "--trigger-word", "VIVI", "--who", "a tenor of 60")
    assert out.startswith("VIVI, a tenor of 60, in a cloak") and "lighting" in err
    assert rows("show", "opera", "--trigger-word", "VIVI")[0]["layers"]["subject"].startswith("VIVI in a cloak")


def test_own_prompts_are_kept_tagged_rated_and_forgotten() -> None:
    assert call("add", "VIVI feeding swans", "--trigger-word", "VIVI", "--tag", "lake")[1] == "feeding-swans  lake\n"
    assert call("tag", "feeding-swans", "winter")[1] == "feeding-swans  lake, winter\n"
    assert call("rate", "feeding-swans", "5", "--image", "vivi", "--seed", "7")[1].startswith("feeding-swans  5.0 st")
    assert [row["name"] for row in rows("list", "--worked")] == ["feeding-swans"]
    assert rows("list", "--tag", "winter")[0]["own"] is True
    assert rows("show", "feeding-swans")[0]["ratings"] == [{"stars": 5, "image": "vivi", "seed": 7}]
    assert call("remove", "feeding-swans")[0] == 0 and call("show", "feeding-swans")[0] == 3
    assert (settings().home / "prompts.json").is_file()


def test_a_file_of_prompts_is_kept_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("{TOK} one\n{TOK} two\n")
    assert len(call("add", "--file", str(tmp_path / "mine.txt"), "--tag", "x")[1].splitlines()) == 2
    assert len(rows("list", "--tag", "x")) == 2


def test_ten_prompts_are_written_and_go_into_a_table_that_a_batch_reads(tmp_path: Path) -> None:
    file = tmp_path / "ten.csv"
    status, out, _ = call("write", "a woman of 40", "--trigger-word", "VIVI", "--clear-face", "-o", str(file))
    assert status == 0 and len(out.splitlines()) == 10 and all("VIVI, a woman of 40" in p for p in out.splitlines())
    with file.open(newline="") as lines:
        assert [row["prompt"] for row in csv.DictReader(lines)] == out.splitlines()
    status, _, err = call("check", str(file), "--trigger-word", "VIVI")
    assert status == 0 and "10 rows, 10 pictures." in err and "nobody" not in err
    assert call("write", "x", "--seed", "1", "-n", "3")[1] != call("write", "x", "--seed", "2", "-n", "3")[1]
    assert len(rows("write", "a teapot", "--type", "product", "-n", "2", "--category", "product")) == 2


def test_what_a_language_model_would_be_asked_can_be_had() -> None:
    out = call("write", "a sailor", "--trigger-word", "ZIKI", "--instructions", "--wish", "No hats")[1]
    assert out.startswith("Write ten prompts") and "describe a sailor" in out and "No hats." in out


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A language model's endpoint; `says` is its answer, `got` what it was asked."""
    story: dict[str, Any] = {"says": ""}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            story["got"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps({"choices": [{"message": {"content": story["says"]}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("VIVIDCOVER_LLM_URL", f"http://127.0.0.1:{server.server_port}/v1")
    settings.cache_clear()
    yield story
    server.shutdown()
    server.server_close()


def test_a_language_model_writes_them_where_one_is_set_up(model: dict[str, Any]) -> None:
    model["says"] = "1. Ziki on a pier at dawn\n2. A portrait of ZIKI in the rain"
    found = rows("write", "a sailor", "--trigger-word", "ZIKI", "-n", "2")
    assert [row["prompt"] for row in found] == ["ZIKI on a pier at dawn", "A portrait of ZIKI in the rain"]
    assert model["got"]["messages"][0]["content"].startswith("Write two prompts")
    status, out, err = call("write", "a sailor", "--trigger-word", "ZIKI", "-n", "3")
    assert status == 5 and out == "" and "wrote 2 prompts of the 3" in err
    model.pop("got")
    assert len(call("write", "a sailor", "--offline")[1].splitlines()) == 10 and "got" not in model
    assert call("write", "a sailor", "--category", "stage")[0] == 2


def test_a_short_prompt_is_written_out() -> None:
    out = call("expand", "vivi in a jazz bar", "--trigger-word", "VIVI")[1]
    assert out.startswith("VIVI in a jazz bar, ") and out.count(",") >= 3
    assert set(rows("expand", "VIVI in a jazz bar")[0]["added"]) == {"lighting", "camera", "mood"}


def test_a_trained_image_model_gives_its_word(home: Path) -> None:
    assert call("write", "x", "--image", "vivi", "-n", "1")[1].startswith("VIVI, x, ")
    status, _, err = call("write", "x", "--image", "nobody")
    assert status == 3 and "no image model 'nobody'" in err


def test_a_table_is_checked_before_a_batch(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("prompt,seed,guidance_scale\n{TOK} here,1,3\na dog,2,\n")
    status, out, err = call("check", str(file), "--trigger-word", "VIVI")
    assert status == 0 and "VIVI here" in out and "not named on line 3" in err
    assert rows("check", str(file), "--trigger-word", "VIVI")[0]["guidance_scale"] == "3"
    file.write_text("prompt,sed\na,1\n")
    status, _, err = call("check", str(file))
    assert status == 2 and "did you mean seed" in err


def test_a_prompt_that_worked_is_rated_as_it_stands() -> None:
    assert call("rate", "VIVI feeding swans", "5", "--trigger-word", "VIVI")[1] == "feeding-swans  5.0 stars\n"
    assert call("rate", "VIVI feeding swans", "4", "--trigger-word", "VIVI")[1] == "feeding-swans  4.5 stars\n"
    assert call("rate", "a dog on a beach", "5")[0] == 2


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["show", "oprea"], 3), (["list", "--category", "no"], 2), (["add"], 2), (["add", "no word"], 2),
        (["rate", "opera", "9"], 2), (["remove", "opera"], 2), (["write", "x", "-n", "0"], 2),
        (["write", "x", "--category", "no"], 2), (["check", "/no/such.csv"], 3), (["tag", "oprea", "x"], 3),
    ],
)  # fmt: skip
def test_mistakes_are_said_with_a_status_and_never_a_traceback(words: list[str], status: int) -> None:
    code, out, err = call(*words)
    assert code == status and err.startswith("Error: ") and "Traceback" not in out + err
    story = json.loads(call(*words, "--json")[1].splitlines()[-1])
    assert story["error"]["message"]


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from vividcover.cli.prompts import app\n"
        "for words in (['--help'], ['write', '--help'], ['list']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print([m for m in ('torch', 'cv2', 'scipy', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
