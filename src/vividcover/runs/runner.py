"""The warm child: carries out one run after the other, each in its worker's name (`python -m vividcover.runs.runner`).

It talks in lines of JSON. In, by a pipe of its own: `{"do": "begin", "settings": …}` once, `{"do": "run", …}`. By
stdin, which a thread reads and whose end is the child's: the id of a run that is to be canceled. Out:

    {"say": "ready"}                                    the child is up
    {"say": "log", "text": …}                           one or more lines
    {"say": "progress", "stage", "fraction", …}
    {"say": "output", "text": …}                        a piece of a model that gives its output in pieces
    {"say": "preview", "fraction", "jpeg": …}           an early look at a video, base64; it takes the last one's place
    {"say": "stage", "name", "key", "hit", "seconds",
     "spent": {"seconds", "usd"} | null}                finished and kept: a run that is taken up again finds it
    {"say": "over", "outcome": {…}}                     fields of `leases.Outcome`

What the model needs is imported when it runs, so a child is up in a moment. Outputs are artifacts before the worker
hears of them. The child leads a process group of its own, and ends with all of it when its worker is gone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from vividcover.catalog.contract import SEED_LIMIT, Context, Model, Result
from vividcover.catalog.flux_pro_trainer import TRAINED
from vividcover.cover import get
from vividcover.errors import Canceled, VividCoverError
from vividcover.lines import decode, encode
from vividcover.memory import steady
from vividcover.runs import lifeline, links, shared
from vividcover.runs.veil import Veil
from vividcover.settings import Settings
from vividcover.store.artifacts import Artifacts
from vividcover.workspace import Event, Workspace

WEIGHTS = "vividcover:weights"  # stands in the input for the trained version's own weights
WEIGHTS_INPUT = "replicate_weights"  # the input of a catalog model that takes them
READ = 1 << 16  # bytes
known = lru_cache(get)  # models by name
BAR = 20  # characters of a progress bar in the logs
APART = 1.0  # seconds between two lines of progress
LOOK = 512  # px of the longer side of an early look


class Runner:
    """One child. Runs come by the pipe `requests`; what it says goes to `out`."""

    def __init__(self, requests: int, out: int) -> None:
        self._requests, self._buffer = requests, b""
        self._out, self._lock = out, threading.Lock()
        self._workspace: Workspace | None = None
        self._run_id = self._canceled = ""
        self._told, self._bar = 0.0, ""
        self._noted: set[str] = set()  # what the log has of the workspace's notes
        self._known, self._counting = 0, threading.Lock()  # stages that the worker has heard of

    def hear(self, line: bytes) -> None:
        """A line from the worker; called in the lifeline's thread, so that cancel is heard in the midst of work."""
        self._canceled = line.decode()
        if self._canceled == self._run_id and self._workspace:
            self._workspace.cancel()

    def _request(self) -> dict[str, Any]:
        """What the worker wants next."""
        while b"\n" not in self._buffer:
            if not (data := os.read(self._requests, READ)):
                lifeline.end()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        request: dict[str, Any] = decode(line)
        return request

    def say(self, what: str, **more: Any) -> None:
        line = encode({"say": what, **more}) + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._out, line) :]

    def log(self, text: str) -> None:
        self.say("log", text=self.plain(text.rstrip("\n")) + "\n")

    def preview(self, fraction: float, rgb: Any) -> None:
        """An early look at a video, uint8 [H, W, 3]; it goes as a small picture with the mark inside."""
        from PIL import Image

        from vividcover import provenance

        picture = Image.fromarray(rgb)
        picture.thumbnail((LOOK, LOOK))
        note = {"quality": 80, "xmp": provenance.xmp("neural", "An early look at a video that is not finished.")}
        packed = io.BytesIO()
        picture.save(packed, "JPEG", **note)
        self.say("preview", fraction=fraction, jpeg=base64.b64encode(packed.getvalue()).decode())

    def serve(self) -> None:
        begin = self._request()
        self.settings = Settings(**begin["settings"])
        self.loaded: dict[str, Any] = {}  # nets that the next run finds in memory
        self.artifacts = Artifacts.of(self.settings)
        self.shared = shared.of(self.settings, self.artifacts)
        self.cache = self.settings.cache
        self.plain = Veil(self.settings)
        steady()
        self.say("ready")
        while True:
            self.carry_out(self._request())

    def carry_out(self, run: Mapping[str, Any]) -> None:
        """One run, from its row to its outcome. Nothing that goes wrong in it ends the child."""
        self._run_id, self._told, self._known, self._bar = run["id"], 0.0, 0, ""
        self._noted.clear()
        try:
            with (
                Files(run, self.artifacts) as files,
                Workspace(self.cache, self.event, self.settings.cache_limit, self.shared) as self._workspace,
            ):
                if self._canceled == self._run_id:  # it came before there was something to cancel
                    self._workspace.cancel()
                outcome = self._run(run, self._workspace, files)
        except Canceled:
            outcome = {"status": "canceled"}
        except VividCoverError as error:
            outcome = {"status": "failed", "error": self.plain(str(error))}
        except Exception as error:
            sys.stderr.write(traceback.format_exc())  # for the server's log: lines of code are not for its users
            said = self.plain(f"Something unforeseen happened: {type(error).__name__}: {error}")
            outcome = {"status": "failed", "error": said}
        self._workspace = None
        self.say("over", outcome=outcome)

    def _run(self, run: Mapping[str, Any], workspace: Workspace, files: Files) -> dict[str, Any]:
        model = known(run["serves"])
        context = Context(
            workspace, self.settings, run["engine"], run["consent"], resolve=files.find,
            on_output=lambda piece: self.say("output", text=piece), on_preview=self.preview, loaded=self.loaded,
        )  # fmt: skip
        values = self._values(run, model)
        result = model.train(values, context) if run["kind"] == "training" else model.run(values, context)
        workspace.check()
        if self._bar not in ("", bar(1.0)):
            self.log(bar(1.0))  # clients take the last bar for where the run stands
        self._explain(run, result)
        return self._outcome(run, result)

    def _values(self, run: Mapping[str, Any], model: Model) -> dict[str, Any]:
        values = dict(run["input"])
        if run["weights"] and values.get(WEIGHTS_INPUT) is None and WEIGHTS_INPUT in model.Input.model_fields:
            values[WEIGHTS_INPUT] = WEIGHTS
        seed = model.Input.model_fields.get("seed") if run["kind"] == "prediction" else None
        if seed is not None and seed.default is None and values.get("seed") is None:
            values["seed"] = seed_of(run["id"])
        return values

    def _explain(self, run: Mapping[str, Any], result: Result) -> None:
        """What the user should know of how it was made."""
        lines = [f"engine: {result.engine} ({result.why})"] if run["serves"] != "vividcover/hello" else []
        if (seed := result.input.get("seed")) is not None:
            lines.insert(0, f"Using seed: {seed}")
        refused = [f"{one.parameter}={one.value}: not honoured, {one.why}" for one in result.not_honoured]
        lines += [line for line in refused if line not in self._noted]
        if lines:
            self.log("\n".join(lines))

    def _outcome(self, run: Mapping[str, Any], result: Result) -> dict[str, Any]:
        story: dict[str, Any] = {"status": "succeeded", "engine": result.engine, "details": {}}
        training, learnt = run["kind"] == "training", result.parts.get(TRAINED)
        if training or learnt:
            hashes = [str(one["sha256"]) for one in result.inputs.values()]
            story["details"] = {
                "engine": result.engine, "trigger_word": result.input.get("trigger_word"),
                "dataset": hashes[0] if len(hashes) == 1 else None, "licence": result.details.get("licence"),
            }  # fmt: skip
        if learnt and not training:  # it is run, and gives the name of what it has learnt
            story["trained"] = asdict(self.artifacts.keep(learnt)) | {"name": learnt.name}
        if isinstance(result.output, str):
            return story | {"text": result.output}
        if isinstance(result.output, list) and not result.files:
            return story | {"items": result.output}
        names = [path.name for path in result.files]
        if len(set(names)) < len(names):
            names = [f"out-{number}{path.suffix}" for number, path in enumerate(result.files)]
        kept = [asdict(self.artifacts.keep(path)) | {"name": name} for path, name in zip(result.files, names)]
        return story | {"files": kept}

    def event(self, event: Event) -> None:
        """What the workspace tells, as lines for people and for the clients' progress bars."""
        if event.kind == "note":
            self._noted.add(event.text)
            self.log(event.text)
        elif event.kind == "wait":
            self.log(f"{event.stage}: {event.text}")
        elif event.kind in ("hit", "done"):
            self._stages()
        elif event.kind == "progress" and time.monotonic() - self._told >= APART:
            self._told = time.monotonic()
            fraction = event.fraction if event.overall is None else event.overall
            eta = event.eta if event.overall_eta is None else event.overall_eta
            self.say("progress", stage=event.stage, fraction=event.fraction, overall=event.overall, eta=eta)
            self._bar = bar(fraction)
            self.log(self._bar)

    def _stages(self) -> None:
        """Tells of the stages that were finished since the last call; branches finish theirs at the same time."""
        assert self._workspace is not None
        with self._counting:
            fresh, self._known = self._workspace.results[self._known :], len(self._workspace.results)
        for done in fresh:
            spent = done.meta.get("spent")
            self.say("stage", name=done.name, key=done.key, hit=done.hit, seconds=done.seconds, spent=spent)
            self.log(f"{done.name}: {'from the cache' if done.hit else f'{done.seconds:.1f} s'}")


class Files:
    """The artifacts behind the links in a run's input, under the names that they had, in a folder for this run."""

    def __init__(self, run: Mapping[str, Any], artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._known: dict[str, Mapping[str, str]] = dict(run["files"])
        if run["weights"]:
            self._known[WEIGHTS] = {"sha256": run["weights"], "name": run["weights_file"] or "trained_model.tar"}

    def find(self, link: str) -> Path | None:
        """None for a link that is to be fetched."""
        if (known := self._known.get(link)) is None:
            return None
        if self._folder is None:
            self._folder = links.folder()
        place = Path(self._folder.name) / known["sha256"][:16] / (Path(known["name"]).name or "file")
        if not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self._artifacts.path(known["sha256"]).resolve())
        return place

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def seed_of(run_id: str) -> int:
    """The seed of a run that was given none: the same when it is taken up again, so that it goes on with its work."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") % SEED_LIMIT


def bar(fraction: float) -> str:
    """A line as tqdm writes it, which the official clients read: ` 45%|█████████           | 45/100`."""
    percent = round(100 * min(max(fraction, 0.0), 1.0))
    full = round(BAR * percent / 100)
    return f"{percent:3d}%|{'█' * full}{' ' * (BAR - full)}| {percent}/100"


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not get among the answers
    runner = Runner(int(sys.argv[1]), out)
    lifeline.hold(runner.hear)
    runner.serve()


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides
    sys.stdout = sys.stderr
    main()
