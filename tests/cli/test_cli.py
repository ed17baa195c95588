"""The command line: quick, derived from the models, exact in what it says and in its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vividcover.catalog.flux_lora import FluxLoraInput
from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloningInput
from vividcover.catalog.sonic import SonicInput
from vividcover.catalog.train_rvc_model import TrainRvcModelInput
from vividcover.cli import build
from vividcover.cli.console import Common, parsed, perform, table
from vividcover.cli.progress import Lines
from vividcover.cover import CoverInput
from vividcover.errors import ParameterError, VividCoverError
from vividcover.settings import settings
from vividcover.workspace import Event

FORBIDDEN = ("torch", "cv2", "scipy", "av", "pyworld", "yt_dlp", "numpy")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIVIDCOVER_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    return tmp_path / "home"


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(build(), list(words))
    return done.exit_code, done.stdout, done.stderr


def test_help_and_import_load_nothing_heavy() -> None:
    script = f"""
import sys
import vividcover
assert not {{m for m in sys.modules if m.startswith("vividcover.")}}, "importing the package loads its parts"
from typer.testing import CliRunner
from vividcover.cli import build
assert CliRunner().invoke(build(), ["cover", "--help"]).exit_code == 0
print([m for m in {FORBIDDEN} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_input_of_a_model_is_an_option_of_its_command() -> None:
    command = typer.main.get_command(build())
    have = {p.name for p in command.commands["cover"].params}  # type: ignore[attr-defined]
    assert set(CoverInput.model_fields) <= have
    song = {p.name for p in command.commands["song"].commands["cover"].params}  # type: ignore[attr-defined]
    elsewhere = {"song_input", "rvc_model", "custom_rvc_model_download_url"}  # SONG and --voice
    assert set(RealisticVoiceCloningInput.model_fields) - elsewhere <= song


def test_the_forms_that_scripts_rely_on_are_understood(home: Path, tmp_path: Path) -> None:
    clip = str(tmp_path / "no.wav")
    assert call("voice", "train", clip, "--name", "n", "--consent", "mine")[0] == 3
    assert (
        call("image", "train", clip, "--name", "n", "--trigger-word", "W", "--type", "subject", "--consent", "m")[0]
        == 3
    )
    assert call("cover", clip, "--voice", "v", "--image", "i", "--prompt", "p", "-o", str(tmp_path / "c.mp4"))[0] == 3


def test_a_text_is_printed_and_written_where_it_is_wanted(home: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "hello.txt"
    status, out, _ = call("run", "vividcover/hello", "-i", "text=you", "-o", str(wanted))
    assert status == 0 and out.splitlines() == [str(wanted), "hello there, you"]
    assert wanted.read_text() == "hello there, you\n" and (tmp_path / "hello.txt.json").is_file()


def test_an_unknown_model_exits_3_and_names_the_nearest(home: Path) -> None:
    status, _, said = call("run", "zsxkib/sonik", "-i", "image=x")
    assert status == 3 and "Did you mean zsxkib/sonic?" in said


def test_wrong_values_exit_2_and_as_json_they_are_an_object(home: Path) -> None:
    status, out, said = call("run", "zsxkib/sonic", "-i", "image=a", "-i", "audio=b", "-i", "dynamic_scale=9", "--json")
    assert status == 2
    error = json.loads(out.splitlines()[-1])["error"]
    assert error["code"] == "bad-parameter" and "dynamic_scale=9" in error["message"] and "dynamic_scale=9" in said


def test_training_without_consent_exits_4(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    status, _, said = call("voice", "train", str(tmp_path / "a.wav"), "--name", "me")
    assert status == 4 and "--consent" in said


def test_a_cover_that_would_not_be_an_mp4_is_refused_before_any_work(home: Path) -> None:
    status, _, said = call("cover", "song.mp3", "--voice", "v", "--image", "i", "-o", "cover.avi")
    assert status == 2 and "mp4" in said


def test_a_data_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("VIVIDCOVER_HOME", str(tmp_path / "file" / "home"))
    settings.cache_clear()
    status, _, said = call("voice", "train", "x.wav", "--name", "me", "--consent", "mine")
    assert status == 6 and "VIVIDCOVER_HOME" in said


def test_a_setting_that_cannot_be_read_is_named_without_a_traceback(home: Path) -> None:
    for words in (["voice", "list"], ["voice", "dataset", "x.wav", "--json"], ["cache", "list"]):
        environment = os.environ | {"VIVIDCOVER_THREADS": "abc"}
        done = subprocess.run(
            [sys.executable, "-c", "from vividcover.cli import main; main()", *words], capture_output=True, text=True,
            env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 2 and "VIVIDCOVER_THREADS=abc" in done.stderr
        assert "Traceback" not in done.stderr and "pydantic" not in done.stderr


def test_lists_are_for_people_and_as_json_for_scripts(home: Path) -> None:
    assert call("voice", "list")[2].strip() == "No voice is trained yet."
    assert json.loads(call("models", "--json")[1])[0]["model"] == "vividcover/cover"
    rows = json.loads(call("models", "replicate/fast-flux-trainer", "--json")[1])
    assert {r["name"] for r in rows if r["of"] == "training_input"} >= {"input_images", "trigger_word", "lora_type"}
    assert call("cache", "list")[2].startswith("The cache is empty.")
    every = [*json.loads(call("models", "--json")[1]), *json.loads(call("weights", "list", "--json")[1]), *rows]
    assert all(key.isidentifier() for row in every for key in row)  # `jq .[].description`, without quotes


def test_each_row_of_a_list_is_one_line_when_it_goes_to_another_program(home: Path) -> None:
    lines = call("models", "zsxkib/sonic")[1].splitlines()
    assert len(lines) == 1 + len(SonicInput.model_fields) and lines[0].split()[:2] == ["of", "name"]


def test_square_brackets_in_a_list_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"model": "a/b", "description": "FLUX.1 [dev] and [/pro]"}], ["model", "description"], False, "")
    assert "FLUX.1 [dev] and [/pro]" in capsys.readouterr().out


def test_doctor_says_of_every_part_whether_it_works(home: Path) -> None:
    _, out, _ = call("doctor", "--json")
    rows = {r["part"]: r["works"] for r in json.loads(out)}
    assert rows["codecs"] == rows["libraries"] == rows["data folder"] == "yes"
    assert rows["neural voices"] == rows["neural images"] == rows["neural portraits"] == "no"


def test_renderers_are_listed_with_what_they_lack_and_whether_they_may_earn_money(home: Path) -> None:
    rows = {row["name"]: row for row in json.loads(call("renderers", "--json")[1])}
    assert rows["classic"]["ready"] and rows["classic"]["commercial"]
    assert not rows["sonic"]["ready"] and not rows["sonic"]["commercial"]
    assert "vividcover weights pull sonic-unet" in rows["sonic"]["lacks"]


def entered(*words: str) -> tuple[int, str, str]:
    """As a user enters it: through the program's own entry point."""
    program = [sys.executable, "-c", "from vividcover.cli import main; main()", *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [["cover", "song.mp3"], ["voice", "bogus"], ["demo", "--size", "9"]])
def test_a_command_line_that_cannot_be_understood_is_an_object_too(home: Path, words: list[str]) -> None:
    status, out, said = entered(*words, "--json")
    assert status == 2 and json.loads(out)["error"]["code"] == "bad-parameter"
    assert said.startswith("Error: ")


def test_nobody_has_to_listen(home: Path, clip: Path, tmp_path: Path) -> None:
    program = f"{sys.executable} -c 'from vividcover.cli import main; main()'"
    for turn, listening in enumerate((">&-", "2>&-", "2> >(head -c 1)")):
        line = f"{program} song separate '{clip}' -o '{tmp_path / str(turn)}' {listening}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert (tmp_path / str(turn) / "vocals.wav").is_file()


def test_names_beyond_ascii_are_printed_whatever_the_locale(
    home: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    status, _, said = entered("song", "separate", str(clip), "-o", str(tmp_path / "ü😀"), "-q")
    assert status == 0, said


def test_cleaning_the_cache_tells_scripts_how_much(home: Path) -> None:
    for words in (["cache", "prune"], ["cache", "clear"]):
        assert json.loads(call(*words, "--json")[1]) == {"freed_bytes": 0, "left_bytes": 0}


def test_a_folder_is_not_a_song_and_a_choice_is_one_of_the_choices(home: Path, tmp_path: Path) -> None:
    status, _, said = call("song", "separate", str(tmp_path), "-o", str(tmp_path / "stems"))
    assert status == 2 and "is a folder" in said
    status, _, said = call("voice", "dataset", str(tmp_path), "--isolate", "maybe", "-o", str(tmp_path / "d.zip"))
    assert status == 2 and "'maybe' is not one of 'auto', 'yes', 'no'" in said


def test_after_ctrl_c_whatever_a_dying_part_says_it_is_canceled(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)

    def work(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        raise VividCoverError("A child process ended unexpectedly.")

    with pytest.raises(SystemExit) as left:
        perform(work, Common(json=True, quiet=True))
    assert left.value.code == 130
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "canceled"


def test_after_ctrl_c_a_net_that_still_computes_does_not_make_the_process_abort(home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("Error: Canceled.\n") and "abort" not in done.stderr


STOPPED = """
import os, signal, threading, time
import torch
from vividcover.cli.console import Common, perform
from vividcover.errors import Canceled

def compute():
    x, net = torch.rand(64, 32, 64, 64), torch.nn.Conv2d(32, 32, 3)
    while True:
        net(x)

def work(session):
    threading.Thread(target=compute, daemon=True).start()
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    raise Canceled()

perform(work, Common(quiet=True))
"""


def test_numbers_are_text_where_a_model_wants_text() -> None:
    assert parsed(["batch_size=7", "epoch=5"], TrainRvcModelInput) == {"batch_size": "7", "epoch": 5}
    wish = parsed(["prompt=1984", "megapixels=1", "image=null", "seed=3", "go_fast=true"], FluxLoraInput)
    assert wish == {"prompt": "1984", "megapixels": "1", "image": None, "seed": 3, "go_fast": True}


def test_input_pairs_are_read_as_json_where_they_are_json() -> None:
    assert parsed(["a=1", "b=true", "c=hello world", 'd="1"', "e=x=y", "f="]) == {
        "a": 1, "b": True, "c": "hello world", "d": "1", "e": "x=y", "f": "",
    }  # fmt: skip
    with pytest.raises(ParameterError, match="not key=value"):
        parsed(["novalue"])


def test_a_log_gets_plain_lines_and_not_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines(Event("start", "song/separate", overall=0.1))
    for i in range(100):
        lines(Event("progress", "song/separate", i / 100, "block", eta=3.0))
    lines(Event("note", "song/separate", text="mono song"))
    lines(Event("done", "song/separate", 1.0, elapsed=2.0))
    said = capsys.readouterr().err.splitlines()
    assert said == ["[ 10%] song/separate: start", "note: mono song", "song/separate: done in 2.0 s"]
    lines(Event("progress", "fetch", 0.5, "half", eta=3.0))
    lines(Event("progress", "portrait/animate", 0.5, "step 5 of 10, 1:02 left", eta=61.0))
    said = capsys.readouterr().err.splitlines()
    assert said == ["fetch: 50% half, 3 s left", "portrait/animate: 50% step 5 of 10, 1:02 left"]  # never two times


def completed(words: str) -> list[str]:
    """What bash is offered behind `words`."""
    environment = os.environ | {
        "_VIVIDCOVER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
    }  # fmt: skip
    program = str(Path(sys.executable).parent / "vividcover")
    done = subprocess.run([program], capture_output=True, text=True, env=environment, check=False)
    return [line.rsplit(",", 1)[-1] for line in done.stdout.split()]


def test_the_shell_is_offered_models_and_trained_voices_and_images(home: Path) -> None:
    for folder, name in (("voices", "ana.zip"), ("voices", "anton.zip"), ("voices", "ana.json"), ("images", "ann.tar")):
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / name).touch()
    assert completed("vividcover run zsx") == [
        "zsxkib/create-rvc-dataset", "zsxkib/realistic-voice-cloning", "zsxkib/sonic",
    ]  # fmt: skip
    assert completed("vividcover cover s.mp3 --voice a") == ["ana", "anton"]
    assert completed("vividcover song cover s.mp3 --voice an") == ["ana", "anton"]
    assert completed("vividcover cover s.mp3 --image a") == completed("vividcover image generate a") == ["ann"]


def test_every_command_is_described_in_the_list_without_being_cut_short(home: Path) -> None:
    for words in ([], ["voice"], ["image"], ["song"], ["weights"], ["cache"]):
        _, out, _ = call(*words, "--help")
        assert "..." not in out.partition("Commands:")[2], out


def test_the_help_says_what_the_classic_engine_does_not_follow_and_what_a_format_is_by_default(home: Path) -> None:
    command = typer.main.get_command(build())
    generate = {p.name: p.help for p in command.commands["image"].commands["generate"].params if p.name != "image"}  # type: ignore[attr-defined]
    assert "Not followed by the classic engine" in generate["guidance_scale"]
    assert "Not followed" not in generate["seed"]
    convert = {p.name: p.help for p in command.commands["voice"].commands["convert"].params}  # type: ignore[attr-defined]
    assert "else wav" in convert["output_format"]


def test_completion_and_version(home: Path) -> None:
    assert call("--version")[1].startswith("vividcover ")
    environment = os.environ | {"_VIVIDCOVER_COMPLETE": "source_bash"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "vividcover")], capture_output=True, text=True, env=environment, check=False
    )
    assert "_vividcover_completion" in done.stdout
