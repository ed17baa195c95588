"""A prompt written out in more detail, by a language model where one is set up, else from our own layers.

    writer = Writer(url="http://localhost:11434/v1", key="", model="qwen3")   # any OpenAI-compatible endpoint
    text = upsample("VIVI in a jazz bar", triggers=["VIVI"], seed=7, writer=writer).text

Whatever was written, each of `triggers` is in it, in its own spelling: without it the picture shows somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vividcover.errors import EngineError
from vividcover.image.prompts.expand import expand
from vividcover.image.prompts.layers import Kind, with_trigger
from vividcover.patience import Patient
from vividcover.workspace import Reporter, Silent

LONGEST = 1500  # characters; 512 tokens of T5 hold about 2000 of English
PATIENCE = 60.0  # seconds for an answer
ORDER = """You write prompts for FLUX.1, an image model that reads plain English sentences.
Rewrite the user's prompt as one paragraph of 60 to 120 words, in this order: who or what, doing what, where, in which \
light, with which camera or in which medium, in which mood. Keep everything the user says, its meaning and its names. \
Add only what fits. Invent no text in the picture, no brand names, no names of artists. Do not say a person's age, \
gender, skin or hair where the user does not.
{keep}Answer with the paragraph alone: no quotation marks, no title, no lists."""
KEEP = "These words stand for what the model was trained on; keep them letter for letter, early in the text: {words}.\n"


@dataclass(frozen=True)
class Writer:
    """A language model behind an OpenAI-compatible address (…/v1)."""

    url: str
    key: str = ""
    model: str = ""


@dataclass(frozen=True)
class Upsampled:
    text: str
    by: str  # the model's name, or "layers"


def upsample(
    prompt: str, *, triggers: Sequence[str] = (), seed: int = 0, kind: Kind = "subject", writer: Writer | None = None,
    reporter: Reporter | None = None,
) -> Upsampled:  # fmt: skip
    """The prompt in more detail; the same seed gives the same words, of a language model as far as it keeps to seeds.

    Raises `EngineError` for a model that is set up wrongly (key, name, address); one that is only out of reach or busy
    is noted, and our layers take its place. Raises `Canceled`.
    """
    reporter = reporter or Silent()
    if writer is not None and writer.url:
        try:
            with Patient(reporter) as patient:
                said = patient.call(ask, writer, prompt, list(triggers), seed)
            return Upsampled(kept(tidy(said), prompt, triggers, kind), writer.model or writer.url)
        except _Away as error:
            reporter.note(f"the prompt was written out without the language model: {error.message}")
    first = next((t for t in triggers if t), "")
    return Upsampled(kept(expand(prompt, trigger=first, seed=seed, kind=kind), prompt, triggers, kind), "layers")


def kept(text: str, prompt: str, triggers: Sequence[str], kind: Kind = "subject") -> str:
    """The text with every trigger word; the user's own words stand first where nothing was written."""
    text = text or prompt
    for trigger in reversed([t for t in triggers if t]):  # the first one ends up first
        text = with_trigger(text, trigger, kind)
    return text


class _Away(EngineError):
    """Nobody's mistake: it may be back later."""


def ask(writer: Writer, prompt: str, triggers: Sequence[str], seed: int) -> str:
    """What the model answers, as it is. Raises `EngineError`."""
    keep = KEEP.format(words=", ".join(triggers)) if triggers else ""
    return talk(writer, ORDER.format(keep=keep), prompt, seed=seed)


def talk(writer: Writer, system: str, said: str, *, seed: int = 0, longest: int = 400) -> str:
    """One answer of at most `longest` tokens to what is said; `system` may be empty. Raises `EngineError`."""
    import httpx

    order: dict[str, Any] = {
        "messages": [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": said}],
        "temperature": 0.8, "max_tokens": longest, "seed": seed % 2**31,
    }  # fmt: skip
    if writer.model:
        order["model"] = writer.model
    where = f"{writer.url.rstrip('/')}/chat/completions"
    headers = {"Authorization": f"Bearer {writer.key}"} if writer.key else {}
    try:
        answer = httpx.post(where, json=order, headers=headers, timeout=PATIENCE)
    except httpx.InvalidURL as error:
        raise EngineError(
            f"The language model's address {writer.url!r} is none: {error}.", "Set llm_url anew."
        ) from error
    except httpx.HTTPError as error:
        raise _Away(f"the language model at {writer.url} cannot be reached ({error})", "Is it running?") from error
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _Away(f"the language model at {writer.url} is busy or broken ({answer.status_code})", "Try again later.")
    if answer.status_code != 200:
        raise EngineError(
            f"The language model at {writer.url} refused ({answer.status_code}): {answer.text[:200]}",
            "Check llm_url, llm_key and llm_model.",
        )
    try:
        return str(answer.json()["choices"][0]["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError):
        raise EngineError(
            f"What answers at {writer.url} is not an OpenAI-compatible language model.",
            "Check llm_url: it ends in /v1.",
        ) from None


def tidy(said: str) -> str:
    """One paragraph: without a model's thoughts, titles and quotation marks, cut at a sentence where it is too long."""
    said = re.sub(r"<think>.*?(</think>|$)", "", said, flags=re.DOTALL)
    lines = [re.sub(r"[*#`]+", "", line).strip() for line in said.strip().splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r"(?i)here('s| is) .*:|(rewritten )?prompt:?", line)]
    text = re.sub(r"(?i)^(rewritten |final )?prompt:\s*", "", " ".join(lines))
    text = re.sub(r"\s+", " ", text).strip().strip("\"'“”„‘’`").strip()
    if len(text) > LONGEST:
        cut = text[:LONGEST]
        end = max(cut.rfind(". "), cut.rfind("! "), cut.rfind("? "))
        text = cut[: end + 1] if end > LONGEST // 2 else cut.rsplit(" ", 1)[0]
    return text
