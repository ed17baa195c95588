"""Any OpenAI-compatible service that sees pictures: a hosted one, or vLLM, llama.cpp, Ollama on this machine."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vividcover.errors import EngineError, ParameterError
from vividcover.image.captions.text import Wording, instruction

LONGEST = 300  # tokens
SIDE = 1024  # px of the picture that is sent
PATIENCE = 120.0  # seconds for an answer
PARALLEL = 4  # photos that are asked about at once
TRIES = 3
PAUSE = 2.0  # seconds before the second try, doubled for the third
REFUSAL = re.compile(
    r"^\W*(?:i['’]?m (?:sorry|unable|not able)|i (?:can['’]?t|cannot|won['’]?t)|sorry\b|unfortunately,? i\b|as an ai )",
    re.IGNORECASE,
)


class RefusedError(EngineError):
    """The service would not describe this picture; it may describe others."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url` ends in /v1; `key` may be empty for a service on this machine."""

    url: str
    key: str = ""
    model: str = ""


class Service:
    """Asks for one caption at a time, from any number of threads. The photos leave this machine."""

    name = "openai"
    parallel = PARALLEL

    def __init__(self, endpoint: Endpoint, *, pause: float = PAUSE) -> None:
        if not endpoint.url.startswith(("http://", "https://")):
            raise ParameterError(
                f"The captioner's address {endpoint.url!r} is none.",
                "Give one that begins with https:// and ends in /v1 (VIVIDCOVER_LLM_URL).",
            )
        self.endpoint, self.pause = endpoint, pause
        self.which = f"{endpoint.url} {endpoint.model}"

    def describe(self, rgb: NDArray[Any], wording: Wording) -> str:
        for attempt in range(TRIES):
            try:
                return self._ask(rgb, wording)
            except _BusyError as error:
                if attempt == TRIES - 1:
                    raise EngineError(f"{error.message} {TRIES} times.", "Try again later.") from error
                time.sleep(self.pause * 2**attempt)
        raise AssertionError("unreachable")

    def _ask(self, rgb: NDArray[Any], wording: Wording) -> str:
        import httpx

        where = self.endpoint.url.rstrip("/")
        order: dict[str, Any] = {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": instruction(wording)},
                        {"type": "image_url", "image_url": {"url": as_data_url(rgb)}},
                    ],
                }
            ],
            "temperature": 0.2,
            "max_tokens": LONGEST,
        }
        if self.endpoint.model:
            order["model"] = self.endpoint.model
        headers = {"Authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {}
        try:
            answer = httpx.post(f"{where}/chat/completions", json=order, headers=headers, timeout=PATIENCE)
        except httpx.InvalidURL as error:
            raise ParameterError(f"The captioner's address {where!r} is none: {error}.", "Correct it.") from error
        except httpx.HTTPError as error:
            raise _BusyError(f"The captioner at {where} could not be reached ({type(error).__name__})") from error
        return _read(answer, where)


class _BusyError(EngineError):
    """Worth another try."""


def _read(answer: Any, where: str) -> str:
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _BusyError(f"The captioner at {where} was busy or broken ({answer.status_code})")
    if answer.status_code != 200:
        raise EngineError(
            f"The captioner at {where} refused ({answer.status_code}): {answer.text[:200]}",
            "Check its address, key and model, and that the model takes pictures.",
        )
    try:
        choice = answer.json()["choices"][0]
        said = str(choice["message"].get("content") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise EngineError(
            f"What answers at {where} is not an OpenAI-compatible service.", "Its address ends in /v1."
        ) from None
    said = re.sub(r"<think>.*?(</think>|$)", "", said, flags=re.DOTALL).strip()
    if not said or REFUSAL.match(said) or choice.get("finish_reason") == "content_filter":
        raise RefusedError(
            f"The captioner at {where} would not describe the picture: {said[:120] or 'it said nothing'}"
        )
    return said


def as_data_url(rgb: NDArray[Any]) -> str:
    """The photo as a JPEG of at most 1024 px, inside of a link."""
    scale = SIDE / max(rgb.shape[:2])
    if scale < 1:
        rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise EngineError("The photo could not be packed as a JPEG.", "Use another captioner.")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
