"""Prompts written out, by a language model or without one: the trigger word stays."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vividcover.errors import EngineError
from vividcover.image.flux.upsample import LONGEST, Writer, tidy, upsample
from vividcover.workspace import Silent


class Model:
    """A language model's endpoint that answers what it is told to."""

    def __init__(self) -> None:
        self.status, self.says, self.got = 200, "A woman sings on a small stage.", [{}]  # type: tuple[int, Any, list[Any]]
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.got.append(body | {"path": self.path, "auth": self.headers.get("Authorization")})
                said = (
                    {"choices": [{"message": {"content": model.says}}]} if isinstance(model.says, str) else model.says
                )
                answer = json.dumps(said).encode()
                self.send_response(model.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def writer(self) -> Writer:
        return Writer(f"http://127.0.0.1:{self.server.server_port}/v1", "secret", "small")


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.server.shutdown()
    model.server.server_close()


def test_the_model_is_asked_in_openais_manner(model: Model) -> None:
    model.says = "VIVI sings on a small stage in one warm spotlight."
    done = upsample("VIVI sings", triggers=["VIVI"], seed=2**40 + 5, writer=model.writer)
    asked = model.got[-1]
    assert (done.text, done.by) == (model.says, "small")
    assert (asked["path"], asked["auth"], asked["model"], asked["seed"]) == (
        "/v1/chat/completions", "Bearer secret", "small", 5,
    )  # fmt: skip
    assert asked["messages"][1] == {"role": "user", "content": "VIVI sings"}
    assert "VIVI" in asked["messages"][0]["content"]


@pytest.mark.parametrize("says", ["A woman sings.", "vivi sings.", "Vivian sings.", "", "<think>VIVI?</think>"])
def test_the_trigger_words_are_kept_for_certain(model: Model, says: str) -> None:
    model.says = says
    text = upsample("VIVI sings beside ZWX", triggers=["VIVI", "ZWX"], writer=model.writer).text
    assert "VIVI" in text
    assert "ZWX" in text


def test_without_a_model_our_own_layers_write() -> None:
    done = upsample("VIVI in a jazz bar", triggers=["VIVI"], seed=3)
    assert done.by == "layers"
    assert done.text.startswith("VIVI in a jazz bar")
    assert len(done.text) > 60
    assert done == upsample("VIVI in a jazz bar", triggers=["VIVI"], seed=3)
    assert done != upsample("VIVI in a jazz bar", triggers=["VIVI"], seed=4)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_model_that_is_busy_is_said_and_done_without(model: Model, status: int) -> None:
    model.status, reporter = status, Silent()
    assert upsample("VIVI sings", triggers=["VIVI"], writer=model.writer, reporter=reporter).by == "layers"
    assert str(status) in reporter.notes[0]


def test_a_model_out_of_reach_is_said_and_done_without() -> None:
    reporter = Silent()
    assert (
        upsample("VIVI sings", triggers=["VIVI"], writer=Writer("http://127.0.0.1:9/v1"), reporter=reporter).by
        == "layers"
    )
    assert "cannot be reached" in reporter.notes[0]


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_model_that_is_set_up_wrongly_is_an_error(model: Model, status: int) -> None:
    model.status = status
    with pytest.raises(EngineError, match=str(status)):
        upsample("VIVI sings", writer=model.writer)


def test_something_else_at_the_address_is_an_error(model: Model) -> None:
    model.says = {"hello": 1}
    with pytest.raises(EngineError, match="not an OpenAI-compatible"):
        upsample("VIVI sings", writer=model.writer)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ('"VIVI sings."', "VIVI sings."), ("Prompt: VIVI sings.", "VIVI sings."),
        ("Here is the prompt:\n\nVIVI sings.", "VIVI sings."), ("**VIVI** sings.", "VIVI sings."),
        ("<think>hm\nhm</think>\nVIVI\nsings.", "VIVI sings."), ("<think>cut off", ""),
        ("Here is VIVI, singing.", "Here is VIVI, singing."),
    ],
)  # fmt: skip
def test_an_answer_is_made_one_paragraph(said: str, text: str) -> None:
    assert tidy(said) == text


def test_a_long_answer_ends_at_a_sentence() -> None:
    text = tidy("VIVI sings on a stage. " * 200)
    assert LONGEST / 2 < len(text) <= LONGEST
    assert text.endswith("stage.")
