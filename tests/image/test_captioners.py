"""Models that caption are opened strictly and told by mode; services that fail are said as errors."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import caption_making
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vividcover.errors import Canceled, EngineError, ModelFileError, ParameterError, WeightsError
from vividcover.image.captions import Endpoint, caption
from vividcover.image.captions.florence import Florence
from vividcover.image.captions.local import finished
from vividcover.image.captions.qwen import CHAT, Qwen
from vividcover.image.captions.service import RefusedError, Service
from vividcover.image.captions.text import Wording, instruction
from vividcover.image.dataset import Dataset, DatasetOptions, prepare
from vividcover.workspace import Silent

VIVI = Wording("VIVI")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return caption_making.tiny_florence(tmp_path_factory.mktemp("florence"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return caption_making.tiny_qwen(tmp_path_factory.mktemp("qwen"))


def photo(seed: int) -> np.ndarray:
    return cv2.resize(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8), (288, 320))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(photo(i)).save(tmp_path / "in" / f"{i}.png")
    return prepare(tmp_path / "in", tmp_path / "photos", DatasetOptions("VIVI"))


class Folders:
    """Weights by name, of those that are there."""

    def __init__(self, **there: Path) -> None:
        self.there = {name.replace("_", "-"): folder for name, folder in there.items()}

    def has(self, name: str) -> bool:
        return name in self.there

    def path(self, name: str) -> Path:
        if name not in self.there:
            raise WeightsError(f"The weights {name!r} are missing.", "Pull them.")
        return self.there[name]


# models on this machine -----------------------------------------------------------------------------------------------


def test_florence_describes_as_the_library_s_own_classes_do(florence: Path) -> None:
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    model = Florence2ForConditionalGeneration.from_pretrained(florence).eval()
    processor = AutoProcessor.from_pretrained(florence)
    inputs = processor(text="<MORE_DETAILED_CAPTION>", images=Image.fromarray(photo(0)), return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=24, num_beams=3, do_sample=False)
    (text,) = processor.batch_decode(tokens, skip_special_tokens=True)
    ours = Florence(florence, "cpu", longest=24)
    assert ours.describe(photo(0), VIVI) == finished(text)
    assert ours.describe(photo(1), VIVI) != ours.describe(photo(0), VIVI)


def test_qwen_reads_the_chat_with_a_place_for_every_patch(qwen: Path) -> None:
    ours = Qwen(qwen, "cpu")
    made = ours._inputs(photo(0), instruction(VIVI))
    places = int(made["image_grid_thw"].prod()) // 4  # patches are merged two by two
    words = ours._tokens.decode(made["input_ids"][0])
    assert words == CHAT.format(picture="<|image_pad|>" * places, words=instruction(VIVI))
    assert int(made["mm_token_type_ids"].sum()) == places
    assert len(made["pixel_values"]) == 4 * places


def test_qwen_looks_at_the_picture_and_does_what_the_mode_asks(qwen: Path) -> None:
    ours = Qwen(qwen, "cpu", longest=12)
    said = ours.describe(photo(0), VIVI)
    assert said == ours.describe(photo(0), VIVI)
    assert said != ours.describe(photo(1), VIVI)
    assert said != ours.describe(photo(0), Wording("VIVI", "style"))


def test_a_captioner_s_folder_is_read_whole_or_refused(florence: Path, qwen: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def damaged(change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        folder = tmp_path / f"{time.monotonic_ns()}"
        folder.mkdir()
        for file in florence.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return folder

    key = next(k for k in load_file(florence / "model.safetensors") if "decoder.layers.0.fc1.weight" in k)
    with pytest.raises(ModelFileError, match=r"missing: .*fc1"):
        Florence(damaged(lambda state: state.__delitem__(key)), "cpu")
    with pytest.raises(ModelFileError, match=r"another shape: .*fc1"):
        Florence(damaged(lambda state: state.update({key: torch.ones(2, 2)})), "cpu")
    cut = damaged(lambda state: None)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="cannot be read"):
        Florence(cut, "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="cannot be read"):
        Florence(tmp_path / "empty", "cpu")
    with pytest.raises(ModelFileError):
        Qwen(florence, "cpu")


def test_auto_takes_the_best_captioner_that_is_there(dataset: Dataset, florence: Path, qwen: Path) -> None:
    both = caption(dataset, weights=Folders(florence_2_base=florence, qwen3_vl_4b=qwen), device="cpu")
    assert both.report["captioner"]["name"] == "florence-2"
    assert all(p.caption.startswith("VIVI, ") for p in both.photos)
    silent = Silent()
    none = caption(dataset, weights=Folders(), reporter=silent)
    assert none.report["captioner"]["name"] == "template"
    assert any("weights pull florence-2-large" in note for note in silent.notes)
    with pytest.raises(WeightsError, match="florence-2-large"):
        caption(dataset, "florence-2", weights=Folders(qwen3_vl_4b=qwen))


def test_a_caption_in_the_making_can_be_canceled(dataset: Dataset) -> None:
    class Slow:
        name = "slow"

        def describe(self, rgb: Any, wording: Wording) -> str:
            time.sleep(20)
            return "too late"

    class Stops(Silent):
        began = time.monotonic()

        def check(self) -> None:
            if time.monotonic() > self.began + 0.3:
                raise Canceled()

    with pytest.raises(Canceled):
        caption(dataset, Slow(), reporter=Stops())
    assert time.monotonic() < Stops.began + 2
    assert not list(dataset.folder.glob("*.txt"))


# services -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[tuple[str, list[Any], list[dict[str, Any]]]]:
    """(address, answers to give in turn: (status, content) or raw text, orders that came in)."""
    answers: list[Any] = []
    orders: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            orders.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            answer = answers.pop(0) if answers else (200, "A woman sings on a dark stage.")
            status, said = (200, None) if isinstance(answer, str) else answer
            raw = answer if said is None else json.dumps({"choices": [{"message": {"content": said}}]})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(raw.encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", answers, orders
    server.shutdown()
    server.server_close()


def test_a_service_gets_the_photo_and_the_mode_s_order(service: Any, dataset: Dataset) -> None:
    url, _, orders = service
    done = caption(dataset, "openai", endpoint=Endpoint(url, "secret", "seer"))
    assert [p.caption for p in done.photos] == ["VIVI, a woman sings on a dark stage."] * 3
    first = orders[0]
    assert len({str(order["messages"]) for order in orders}) == 3
    assert (first["path"], first["key"], first["model"]) == ("/v1/chat/completions", "Bearer secret", "seer")
    words, picture = first["messages"][0]["content"]
    assert words["text"] == instruction(VIVI)
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    sent = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert min(np.abs(sent.astype(float) - p.rgb()).mean() for p in dataset.photos) < 6


def test_a_busy_service_is_asked_again_and_a_broken_one_given_up(service: Any) -> None:
    url, answers, orders = service
    asks = Service(Endpoint(url), pause=0.01)
    answers += [(503, "busy"), (429, "slow down"), (200, "She sings.")]
    assert asks.describe(photo(0), VIVI) == "She sings."
    answers += [(500, "x")] * 3
    with pytest.raises(EngineError, match="500"):
        asks.describe(photo(0), VIVI)
    answers += [(401, "wrong key")]
    with pytest.raises(EngineError, match="401"):
        asks.describe(photo(0), VIVI)
    assert len(orders) == 7
    answers += ["<html>hello</html>"]
    with pytest.raises(EngineError, match="not an OpenAI-compatible"):
        asks.describe(photo(0), VIVI)
    with pytest.raises(EngineError, match="could not be reached"):
        Service(Endpoint("http://127.0.0.1:9/v1"), pause=0.01).describe(photo(0), VIVI)
    with pytest.raises(ParameterError):
        Service(Endpoint("localhost"))


def test_a_service_is_asked_about_several_photos_at_once(dataset: Dataset) -> None:
    class Slow:
        name, parallel = "slow", 3
        together = threading.Barrier(3, timeout=20)  # nobody goes on before three have come

        def describe(self, rgb: Any, wording: Wording) -> str:
            self.together.wait()
            return f"A woman in light {int(rgb.mean())}."

    done = caption(dataset, Slow())
    assert [p.caption for p in done.photos] == [
        f"VIVI, a woman in light {int(p.rgb().mean())}." for p in dataset.photos
    ]


def test_an_error_of_one_photo_ends_the_others_and_keeps_what_was_said(dataset: Dataset) -> None:
    class Breaks:
        name, said = "breaks", 0

        def describe(self, rgb: Any, wording: Wording) -> str:
            self.said += 1
            if self.said == 2:
                raise EngineError("The captioner broke.", "Try again.")
            return f"Words {self.said}."

    breaks = Breaks()
    with pytest.raises(EngineError, match="broke"):
        caption(dataset, breaks)
    done = caption(dataset, breaks)  # goes on: the first photo is not described again
    assert done.photos[0].caption == "VIVI, Words 1."
    assert len({p.caption for p in done.photos}) == 3


def test_a_photo_that_a_service_will_not_describe_is_named(service: Any, dataset: Dataset) -> None:
    url, answers, _ = service
    answers += [(200, "She sings."), (200, "I'm sorry, I can't help with that."), (200, "<think>hm</think>She waves.")]
    silent = Silent()
    done = caption(dataset, "openai", endpoint=Endpoint(url), reporter=silent)  # in any order: they are asked at once
    said = {p.caption: p.name for p in done.photos}
    assert said.keys() == {"VIVI, she sings.", "a photo of VIVI", "VIVI, she waves."}
    assert done.report["captioner"]["refused"] == [said["a photo of VIVI"]]
    assert any(note.startswith(said["a photo of VIVI"]) for note in silent.notes)
    answers += [(200, "I cannot describe people.")]
    with pytest.raises(RefusedError):
        Service(Endpoint(url)).describe(photo(0), VIVI)
    with pytest.raises(ParameterError, match="address"):
        caption(dataset, "openai")


def test_a_text_that_was_cut_off_ends_with_its_last_sentence() -> None:
    assert finished("She sings. The stage is dar") == "She sings."
    assert finished("She sings on a stage") == "She sings on a stage"
