"""The neural portrait behind the API, with real parts: a server, its worker, the official client, a tiny Sonic."""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from replicate.client import Client

from live import Live, live
from run_making import children_of, family, kill
from sonic_making import tiny_sonic_files
from vividcover.song.pcm import RATE, write_pcm
from vividcover.weights import licence_of_portrait

ROOT = Path(__file__).parents[2]
STILL = ROOT / "sample" / "photos" / "01.jpg"
MODEL = "zsxkib/sonic"
NEURAL = {"vividcover-engine": "neural"}
OVER = ("succeeded", "failed", "canceled")
SECONDS = 0.24  # three frames of the network, six of the video
QUICK: dict[str, Any] = {"inference_steps": 5, "min_resolution": 256, "straight_windows": True}
BAR = re.compile(r"^ *(\d+)%\|", re.MULTILINE)
OPERATORS = "r8_of-the-operator"  # a token that no client may see


@dataclass
class Place:
    """The server, and what its callers have: clients, links to a still and to a voice."""

    server: Live
    client: Client
    token: str
    http: httpx.Client
    still: str
    voice: str

    def asked(self, **input: Any) -> dict[str, Any]:
        """A run that was just asked for."""
        answer = self.tried(**input)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def tried(self, **input: Any) -> httpx.Response:
        given = {"image": self.still, "audio": self.voice, **QUICK, **input}
        return self.http.post(f"/v1/models/{MODEL}/predictions", json={"input": given})

    def seen(self, run: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(run["urls"]["get"]).raise_for_status().json())

    def over(self, run: dict[str, Any]) -> dict[str, Any]:
        return self.until(run, lambda seen: seen["status"] in OVER)

    def until(self, run: dict[str, Any], found: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        end = time.monotonic() + 240  # other tests run beside this one
        while not found(seen := self.seen(run)):
            assert time.monotonic() < end and seen["status"] not in OVER, seen
            time.sleep(0.05)
        return seen

    def link(self, content: bytes, name: str) -> str:
        """Of an uploaded file."""
        sent = self.http.post("/v1/files", files={"content": (name, content)}).raise_for_status()
        return str(sent.json()["urls"]["get"])

    def child(self) -> int:
        """The process that carries out the run: of the worker's children the one with torch in it."""
        found = [pid for pid in family(self.server.process.pid) if "vividcover.runs.runner\0" in command(pid)]
        sizes = {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in found}
        return max(found, key=lambda pid: sizes[pid])


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with one worker and the tiny nets; it kills nothing that does not end by itself when it is canceled."""
    folder = tmp_path_factory.mktemp("live")
    own = json.dumps({name: str(path) for name, path in tiny_sonic_files().items()})
    with live(folder / "home", weight_files=own, threads="1", replicate_token=OPERATORS, cancel_grace="20") as server:
        token = server.token("read write")
        with server.client(token) as http:
            http.headers.update(NEURAL)
            made = Place(server, Client(token, base_url=server.url, headers=NEURAL), token, http, "", "")
            made.still = made.link(STILL.read_bytes(), "vivi.jpg")
            made.voice = made.link(hum(SECONDS, folder), "voice.wav")
            yield made


def hum(seconds: float, folder: Path) -> bytes:
    """A WAV file of a tone that swells and fades."""
    clock = np.arange(round(seconds * RATE)) / RATE
    tone = 0.4 * np.sin(2 * np.pi * 220 * clock) * np.sin(np.pi * clock / seconds)
    return write_pcm(folder / "hum.wav", np.stack([tone, tone]).astype(np.float32), RATE).read_bytes()


def mute() -> bytes:
    """A video without sound."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for shade in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * shade, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def length(video: bytes) -> tuple[tuple[int, int], int, float, str]:
    """(size, frames, seconds of sound, the comment inside)"""
    with av.open(io.BytesIO(video), "r") as file:
        picture, sound = file.streams.video[0], file.streams.audio[0]
        seconds, comment = float((sound.duration or 0) * (sound.time_base or 0)), file.metadata["comment"]
        count = sum(1 for _ in file.decode(picture))
        return (picture.width, picture.height), count, seconds, comment


def drawn_seed(run: dict[str, Any]) -> int:
    found = re.findall(r"^Using seed: (\d+)$", run["logs"], re.MULTILINE)
    assert len(found) == 1, run["logs"]
    return int(found[0])


def keeps_to_itself(place: Place, run: dict[str, Any]) -> None:
    """Nothing that a client can see of a run names a folder of this machine, a token, or a line of code."""
    shown = json.dumps(run) + place.http.get(f"/v1/predictions/{run['id']}/logs").text
    ours = (place.server.home, tempfile.gettempdir(), sys.prefix, ROOT, Path.home(), Path(sys.executable).parent)
    for secret in (*map(str, ours), place.token, OPERATORS, "Traceback", 'File "'):
        assert secret not in shown, (secret, shown)


# --- a portrait ---------------------------------------------------------------------------------------------------


def test_the_schema_has_the_published_inputs_first_in_their_order(place: Place) -> None:
    version = place.http.get(f"/v1/models/{MODEL}").json()["latest_version"]
    inputs = version["openapi_schema"]["components"]["schemas"]["Input"]
    order = sorted(inputs["properties"], key=lambda name: inputs["properties"][name]["x-order"])
    published = [
        "image", "audio", "dynamic_scale", "min_resolution", "inference_steps", "keep_resolution", "seed",
    ]  # fmt: skip
    assert order[: len(published)] == published == list(inputs["properties"])[: len(published)]
    assert set(inputs["required"]) == {"image", "audio"}


def test_the_official_client_gets_a_video_as_long_as_the_sound_by_the_seed_0(place: Place, tmp_path: Path) -> None:
    with STILL.open("rb") as still, io.BytesIO(hum(SECONDS, tmp_path)) as voice:
        voice.name = "voice.wav"
        made = place.client.models.predictions.create(MODEL, {"image": still, "audio": voice, **QUICK, "seed": 0})
        made.wait()
    assert made.status == "succeeded", (made.error, made.logs)
    size, frames, seconds, comment = length(httpx.get(str(made.output)).raise_for_status().content)
    assert size == (256, 256) and frames == round(25 * SECONDS) and abs(seconds - SECONDS) < 0.05
    assert '"seed": 0' in comment and "trainedAlgorithmicMedia" in comment
    run = place.seen({"urls": {"get": f"/v1/predictions/{made.id}"}})
    assert drawn_seed(run) == 0 and "engine: neural (asked for)" in run["logs"]
    assert licence_of_portrait().text in run["logs"], "what may be done with it is said"
    assert run["logs"].index("BY-NC-SA") < run["logs"].index("portrait/animate"), "before the work"
    assert 0 < run["metrics"]["predict_time"] <= run["metrics"]["total_time"]
    assert made.progress is not None and made.progress.percentage == 1.0, "the client's own progress bar"
    keeps_to_itself(place, run)


def test_an_early_look_is_its_owners_alone_and_a_cancel_leaves_nothing_at_work(place: Place) -> None:
    run = place.asked(inference_steps=50, preview_every=1)
    where = f"/v1/predictions/{run['id']}/preview"
    place.until(run, lambda _: place.http.get(where).status_code == 200)
    with Image.open(io.BytesIO(place.http.get(where).content)) as look:
        assert look.format == "JPEG" and look.size == (256, 256)
        assert np.asarray(look.convert("L")).std() > 1, "there is something on it"
    with place.server.client(place.server.token("read write")) as bob:
        assert bob.get(where).status_code == 404
    assert httpx.get(place.server.url + where).status_code == 401
    asked, child = time.monotonic(), place.child()
    place.http.post(run["urls"]["cancel"]).raise_for_status()
    assert place.over(run)["status"] == "canceled" and time.monotonic() - asked < 5
    half_made = [path for path in (place.server.home / "cache" / "tmp").glob("*") if path.exists()]
    assert not half_made and not children_of(child)
    keeps_to_itself(place, place.seen(run))
    assert place.http.delete(where.removesuffix("/preview")).status_code == 204
    assert place.http.get(where).status_code == 404, "a look goes with the run's data"


def test_a_run_whose_process_is_killed_goes_on_from_what_was_sampled_with_the_seed_that_it_had_drawn(
    place: Place,
) -> None:
    run = place.asked(inference_steps=12)
    seen = place.until(run, lambda seen: max(shares(seen["logs"]), default=0) >= 25)
    kill(place.child())
    done = place.over(run)
    assert done["status"] == "succeeded", (done["error"], done["logs"])
    _, _, after = done["logs"].partition("Taken up again")
    reached = max(shares(seen["logs"]))
    again = [share for share in shares(after) if share > 2]  # what loads and listens is the first percent
    assert again and min(again) > reached - 100 / 12, "steps that were done are not done again"
    assert "begun anew" not in after
    video = httpx.get(done["output"]).raise_for_status().content
    assert f'"seed": {drawn_seed(done)}' in length(video)[3] and drawn_seed(done) > 0
    keeps_to_itself(place, done)


def shares(logs: str | None) -> list[int]:
    return [int(percent) for percent in BAR.findall(logs or "")]


def test_of_two_faces_the_largest_sings_and_that_is_said(place: Place) -> None:
    with Image.open(STILL) as photo:
        both = Image.new("RGB", (1024, 682))
        both.paste(photo.resize((512, 682)), (0, 0))
        both.paste(photo.resize((384, 512)), (600, 100))
    run = place.asked(image=place.link(jpeg(both), "both.jpg"), inference_steps=50)
    said = place.until(run, lambda seen: "2 faces in the still: the largest sings." in (seen["logs"] or ""))
    assert said["status"] == "processing"
    place.http.post(run["urls"]["cancel"])
    assert place.over(run)["status"] == "canceled"


# --- what goes wrong ----------------------------------------------------------------------------------------------


def jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG")
    return out.getvalue()


def test_what_cannot_sing_is_refused_or_fails_with_what_to_mend(place: Place, tmp_path: Path) -> None:
    wall = place.link(jpeg(Image.new("RGB", (512, 512), "teal")), "wall.jpg")
    for input, said in (
        ({"image": wall}, "No face was found in the still"),
        ({"image": place.link(b"no picture at all", "none.jpg")}, "none.jpg"),
        (
            {"audio": place.link(hum(0.05, tmp_path), "short.wav")},
            "short.wav is 0.05 s long; at least 0.08 s are needed",
        ),
        ({"audio": place.link(STILL.read_bytes(), "photo.jpg")}, "photo.jpg"),
        ({"audio": place.link(b"RIFF nonsense", "torn.wav")}, "torn.wav"),
        ({"audio": place.link(mute(), "mute.mp4")}, "mute.mp4 is not audio: there is no sound in it"),
        ({"mode": "fast", "speedups": "schedule, warp"}, "no speed-up 'warp'"),
        ({"speedups": "schedule"}, "mode=exact has no speed-ups"),
        ({"renderer": "puppet"}, "no renderer 'puppet'"),
        ({"renderer": "classic"}, "belongs to the classic engine"),
    ):
        answer = place.tried(**input)
        if answer.status_code == 422:  # what is seen before there is a run
            assert said in answer.json()["detail"], answer.text
            continue
        done = place.over(answer.json())
        assert done["status"] == "failed" and not done["output"], (input, done)
        assert said in done["error"], done["error"]
        keeps_to_itself(place, done)


def test_values_out_of_range_are_refused_before_there_is_a_run(place: Place) -> None:
    for name, wrong in (
        ("dynamic_scale", 2.5), ("dynamic_scale", 0.1), ("min_resolution", 128), ("min_resolution", 2048),
        ("inference_steps", 4), ("inference_steps", 51), ("seed", -1), ("preview_every", 51), ("mode", "warp"),
    ):  # fmt: skip
        answer = place.tried(**{name: wrong})
        assert answer.status_code == 422 and name in answer.text, (name, wrong, answer.text)
    assert place.http.post(f"/v1/models/{MODEL}/predictions", json={"input": {"image": place.still}}).status_code == 422
