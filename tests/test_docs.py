"""What README and docs promise is true of the code: links, command lines, Python, error codes, derived pages."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer

import vividcover
from vividcover import errors, sdk
from vividcover.catalog.contract import validated
from vividcover.cli import build
from vividcover.cli.console import parsed
from vividcover.cover import get
from vividcover.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
SHELL = re.compile(r"\$\(.*?\)|\$\w+")
FILE = re.compile(r"`([\w./-]+\.(?:py|toml|md|yml))`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Code blocks of a page, indentation taken off."""
    for indent, language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield "\n".join(line.removeprefix(indent) for line in body.splitlines())


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """As Python-Markdown's toc names a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def command_lines() -> list[tuple[str, str]]:
    """Every `vividcover …` line of every page, with the page's name."""
    found = []
    for page in PAGES:
        text = prose(page)
        lines = [line for block in blocks(page, "bash", "sh") for line in block.replace("\\\n", " ").splitlines()]
        lines += [inline for inline in re.findall(r"`([^`\n]+)`", text) if inline.startswith("vividcover ")]
        for line in lines:
            bare = re.split(r"\s(?:\|\||&&|>|\|)\s", line.strip())[0].removeprefix(".venv/bin/")
            if bare.startswith("vividcover ") and "COMMAND" not in bare and "…" not in bare:
                found.append((name_of(page), bare))
    return found


def arguments(line: str) -> list[str]:
    return shlex.split(SHELL.sub("text", line), comments=True)[1:]


@lru_cache
def program() -> Any:
    return typer.main.get_command(build())


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a line names, and the words behind its name."""
    command = program()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, wanted = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        if DOCS in page.parents:
            assert DOCS in there.parents, f"{target} leaves the documentation site"
        if wanted:
            headings = {anchor(h) for h in HEADING.findall(prose(there))}
            assert wanted in headings, f"{target}: {there.name} has {sorted(headings)}"


def test_every_command_line_is_one_that_the_program_takes() -> None:
    lines = command_lines()
    assert len(lines) > 40  # the pages are full of them: if not, this test looks in the wrong place
    for page, line in lines:
        command, words = command_of(arguments(line))
        if words in ([], ["--help"], ["-h"]) and (hasattr(command, "commands") or " " not in line.strip()):
            continue
        if words and words[0] in ("--install-completion", "--show-completion", "--version"):
            continue
        inline = f"`{line}`" in (ROOT / page).read_text(encoding="utf-8")
        if inline and not words:  # the bare name of a command, in a sentence
            continue
        try:
            command.make_context(line, words)
        except Exception as error:
            pytest.fail(f"{page}: {line}: {error}")


def test_every_model_run_in_the_docs_is_given_inputs_that_it_takes() -> None:
    seen = 0
    for page, line in command_lines():
        words = arguments(line)
        if words[0] not in ("run", "train") or len(words) < 3:
            continue
        model = get(words[1])
        schema = model.Input if words[0] == "run" else model.TrainingInput
        assert schema is not None, f"{page}: {model.name} has no training"
        pairs = [words[i + 1] for i, word in enumerate(words) if word == "-i"]
        validated(model.name, schema, parsed(pairs))
        seen += 1
    assert seen > 8


@pytest.mark.parametrize("page", [p for p in PAGES if any(blocks(p, "python"))], ids=name_of)
def test_python_in_the_docs_compiles_and_calls_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vividcover":
                assert node.attr in vividcover.__all__ or node.attr == "errors", f"vividcover.{node.attr}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                check_keywords(node.func, {k.arg for k in node.keywords if k.arg})


OPEN_ENDED = {
    "make_cover": "vividcover/cover", "convert_song": "zsxkib/realistic-voice-cloning",
    "generate_image": "vividcover/flux-lora", "make_portrait": "zsxkib/sonic",
}  # fmt: skip


def check_keywords(function: ast.Attribute, keywords: set[str]) -> None:
    """Keywords of a call of the SDK are its own parameters, or inputs of the model behind it."""
    import inspect

    if not (isinstance(function.value, ast.Name) and function.value.id == "vividcover"):
        return
    known = set(inspect.signature(getattr(sdk, function.attr)).parameters)
    if function.attr in OPEN_ENDED:
        known |= {*get(OPEN_ENDED[function.attr]).Input.model_fields}
        known |= {"home", "engine", "on_event", "cookies", "on_preview"}
    assert keywords <= known, f"vividcover.{function.attr} takes no {sorted(keywords - known)}"


def tree_of(error: type[errors.VividCoverError]) -> Iterator[type[errors.VividCoverError]]:
    yield error
    for kind in error.__subclasses__():
        yield from tree_of(kind)


def test_every_error_code_is_explained_and_has_its_exit_status_told() -> None:
    explained = HEADING.findall((DOCS / "guide" / "troubleshooting.md").read_text(encoding="utf-8"))
    statuses = (DOCS / "guide" / "scripting.md").read_text(encoding="utf-8")
    for kind in tree_of(errors.VividCoverError):
        if not kind.__module__.startswith("vividcover."):
            continue
        assert kind.code in explained, f"{kind.code} is not in troubleshooting"
        row = next(line for line in statuses.splitlines() if f"`{kind.code}`" in line)
        assert row.startswith(f"| {kind.exit_code} |"), f"{kind.code} has the exit status {kind.exit_code}, not: {row}"


def test_every_setting_that_the_docs_name_exists() -> None:
    known = {f"VIVIDCOVER_{name.upper()}" for name in Settings.model_fields}
    for page in PAGES:
        for name in re.findall(r"VIVIDCOVER_[A-Z_]+", page.read_text(encoding="utf-8")):
            assert name in known, f"{name_of(page)}: {name}"


def test_every_source_file_that_the_docs_name_exists() -> None:
    """A name may be whole, or from below src/vividcover, or from a folder that the page is about."""
    folders = ("src/vividcover", "tests", "bench", "docs", "sample", ".ci")
    there = [f"/{name_of(p)}" for folder in folders for p in (ROOT / folder).rglob("*.*")]
    there += [f"/{p.name}" for p in ROOT.iterdir()]
    for page in PAGES:
        for path in FILE.findall(page.read_text(encoding="utf-8")):
            assert any(known.endswith(f"/{path}") for known in there), f"{name_of(page)}: {path}"


def test_every_function_that_follow_one_cover_names_exists() -> None:
    text = (DOCS / "architecture" / "follow-one-cover.md").read_text(encoding="utf-8")
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"`(?:\w+\.)*(\w+)\(\)`", text))
    assert len(named) > 20
    for name in named:
        assert re.search(rf"\b(?:def|class) {name}\b", source), f"{name}() is not in the sources"


def constant(file: str, name: str) -> Any:
    """The value that a module gives to a name, or a class of it to a field, read from the source."""
    tree = ast.parse((ROOT / "src" / "vividcover" / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and node.value is not None:
            return eval(compile(ast.Expression(node.value), file, "eval"), {})  # a number, or a sum of numbers
    raise AssertionError(f"{file} has no {name}")


@pytest.mark.parametrize(
    ("page", "words", "file", "name", "value"),
    [
        ("guide/voices.md", "Below 10 seconds", "voice/classic/train.py", "LEAST", 10),
        ("guide/voices.md", "beyond thirty nothing is gained", "voice/classic/train.py", "MOST", 30 * 60),
        ("guide/voices.md", "30 seconds of voice or more", "voice/classic/train.py", "ADVISED", 30),
        ("guide/images.md", "The eight best are kept", "image/classic/train.py", "KEEP", 8),
        ("guide/troubleshooting.md", "at least 256 px", "image/photos.py", "SMALLEST_SIDE", 256),
        ("guide/songs-and-links.md", "-14 LUFS", "song/mix.py", "loudness", -14),
        ("guide/songs-and-links.md", "below -1 dBTP", "song/mix.py", "true_peak", -1),
        ("guide/songs-and-links.md", "44.1 kHz", "song/pcm.py", "RATE", 44_100),
        ("architecture/07-cli-and-sdk.md", "within 0.6 seconds", "cli/console.py", "GRACE", 0.6),
        ("guide/the-cover.md", "25 frames a second", "portrait/render.py", "fps", 25),
        ("guide/neural-portraits.md", "12.5 times a second", "portrait/sonic/config.py", "FPS", 12.5),
        ("guide/neural-portraits.md", "instead of 25 |", "portrait/sonic/config.py", "STEPS", 25),
        ("guide/neural-portraits.md", "| 10 steps,", "portrait/sonic/config.py", "FAST_STEPS", 10),
        ("guide/neural-portraits.md", "in steps of 64", "portrait/sonic/config.py", "SIDES", 64),
        ("guide/neural-portraits.md", "eight at a time", "portrait/sonic/config.py", "DECODE_CHUNK", 8),
        ("guide/neural-portraits.md", "hears 30 s at a time", "portrait/sonic/config.py", "CHUNK_SECONDS", 30),
        ("guide/neural-portraits.md", "half again as much decoding", "portrait/sonic/decode.py", "SHARED", 4),
        ("guide/neural-portraits.md", "a face below 48 px", "portrait/framing.py", "SMALLEST_FACE", 48),
        ("guide/neural-portraits.md", "by more than 42°", "portrait/framing.py", "MOST_YAW", 42),
        ("guide/neural-portraits.md", "by more than 30° is noted", "portrait/framing.py", "GOOD_YAW", 30),
        ("guide/neural-portraits.md", "less than 0.08 s", "portrait/sonic/config.py", "SHORTEST", 0.08),
        ("guide/neural-portraits.md", "The newest three", "catalog/trainings.py", "KEPT", 3),
    ],
)
def test_figures_in_the_docs_are_those_of_the_code(page: str, words: str, file: str, name: str, value: float) -> None:
    assert words in (DOCS / page).read_text(encoding="utf-8")
    assert constant(file, name) == value


PORTRAITS = DOCS / "guide" / "neural-portraits.md"


def rows_of(page: Path, *beginnings: str) -> Iterator[list[str]]:
    """The cells of the table rows that begin so."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for beginning in beginnings:
        yield [cell.strip() for cell in next(line for line in lines if line.startswith(beginning)).split("|")[1:-1]]


def test_what_a_portraits_speed_ups_are_said_to_leave_is_what_their_plans_leave() -> None:
    from vividcover.portrait.sonic.config import SPEEDUPS, options_of
    from vividcover.portrait.sonic.speed import cost_of, plan_of

    frames = 2625  # 210 s

    def cost(*names: str) -> float:
        return cost_of(plan_of(options_of("fast" if names else "exact", speedups=names)), frames)

    whole, ten = cost(), cost("schedule")
    for name, cells in zip(SPEEDUPS[:3], rows_of(PORTRAITS, *(f"| `{name}` |" for name in SPEEDUPS[:3]))):
        shares = [cost(name) / whole, cost(name, "schedule") / ten]
        said = [int(share) / 100 for share in re.findall(r"(\d+) %", cells[-1])]
        assert said == pytest.approx(shares[: len(said)], abs=0.005), name
    page = PORTRAITS.read_text(encoding="utf-8")
    assert f"together is {cost('schedule', 'guidance', 'features') / whole:.0%}".replace("%", " %") in page
    assert all(name in SPEEDUPS for name in re.findall(r"^\| `(\w+)` \| .* %", page, re.MULTILINE))


def test_the_time_that_a_portrait_is_said_to_take_is_computed_from_what_the_bench_counts() -> None:
    songs = {row["what"]: row for row in json.loads((ROOT / "bench/results/portrait.json").read_text())["song"]}
    said = rows_of(PORTRAITS, "| `exact` | 2", "| `fast` without `fp8`, sung", "| `fast` without `fp8`, 65 %")
    for cells, what in zip(said, ("exact", "+ features", "+ silence")):
        work = songs[what]["unet_pflop"] + songs[what]["tail_pflop"]
        assert float(cells[1].split()[0]) == pytest.approx(work, abs=0.6)
        told = [[int(minutes) for minutes in re.findall(r"\d+", cell)] for cell in cells[2:]]
        for minutes, rate in zip(told, (400, 60)):  # TFLOP a second
            assert minutes[0] - 0.5 <= work * 1000 / rate / 60 <= minutes[-1] + 0.5


def test_what_a_portrait_is_said_to_need_of_a_gpu_is_what_is_planned() -> None:
    from vividcover.portrait.sonic.config import FULL
    from vividcover.portrait.sonic.memory import fit

    weights, at_once = 3.15, [(1, 1), (1, 2), (1, 3), (2, 3)]
    for cells, expected in zip(rows_of(PORTRAITS, "| 7 GB", "| 9 GB", "| 11 GB", "| 18 GB"), at_once):
        found = fit(FULL, (64, 64), 2, (float(cells[0].split()[0]) - weights) * 1e9)
        assert (found.windows, found.branches) == expected, cells


def test_the_weights_of_a_portrait_are_all_named() -> None:
    from vividcover.weights import select

    page = PORTRAITS.read_text(encoding="utf-8")
    assert {f"`{name}`" for name in select(group="portrait")} <= set(re.findall(r"`[\w-]+`", page))


def test_every_decision_is_in_the_index() -> None:
    index = (DOCS / "adr" / "index.md").read_text(encoding="utf-8")
    for page in (DOCS / "adr").glob("0*.md"):
        assert f"({page.name})" in index


def test_derived_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "make_model_pages.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS)) in navigation, f"{name_of(page)} is in no menu"
