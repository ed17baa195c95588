"""How good it is: separation, voice and lips, each beside the prototype that came before, in one run.

    python bench/quality.py                         everything on sample material: some minutes
    python bench/quality.py --quick --json          a few short cases; the last line is one JSON object
    python bench/quality.py --real FOLDER           also real voices: FOLDER/<speaker>/*.wav|flac|mp3
    python bench/quality.py --portrait FACE.png SINGING.wav     lips also on a picture and clean singing of yours
    python bench/quality.py --only separation       or voice, lips, real

Run it with the project's own environment; the judges get theirs (bench/judges_venv.py). Every `…_ratio` is "bigger is
better" and stands beside its `…_ratio_aim`; with --strict the exit status is 1 when one misses its aim. Results go to
bench/results/quality.json and .md with sheets beside them; those of --quick and --only to bench/.work/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from figures import table, verdict
from machine import LOOKS, RESULTS, about, asked, spent, tell

PARTS = ("separation", "voice", "real", "lips")
HOW_REAL = (
    "not run: give recordings of two or more people as --real FOLDER (FOLDER/<speaker>/*.wav|flac|mp3, a minute each), "
    "for example LibriSpeech test-other, one folder a speaker; the project may not ship other people's voices"
)
NOT_MEASURED = (
    "Nobody listened; every statement about sound is a metric.",
    "Separation truths are synthetic sums: neither a commercial master nor museval was used.",
    "The speaker and phone judges are trained on natural speech; sung and vocoded sound costs them much.",
    "The prototype's lip figures are its own, reached on other pictures; its recipes for separation and voice are "
    "rebuilt from their description and run here, on the same material.",
)


def run(given: argparse.Namespace, only: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Each part's rows, means and figures."""
    if given.quick and len(only) > 1:
        return _side_by_side(given, only, work)
    parts: dict[str, Any] = {}
    for part in only:
        began = time.monotonic()
        with spent() as cost:
            parts[part] = _part(part, given, work)
        parts[part] |= {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(cost.seconds, 1)}
        print(f"{part}: {parts[part]['wall_s']} s", file=sys.stderr)
    return parts


def _side_by_side(given: argparse.Namespace, only: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Each part in a process of its own, two at a time: quick, and CPU-seconds are still each one's own."""

    def one(part: str) -> dict[str, Any]:
        words = ["--quick", "--json", "--only", part, "--threads", str(given.threads), "--work", str(work)]
        words += ["--real", str(given.real)] if given.real else []
        words += ["--portrait", *map(str, given.portrait)] if given.portrait else []
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["parts"][part]
        return found

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(only, pool.map(one, only)))


def _part(part: str, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    quick, threads = given.quick, given.threads
    if part == "separation":
        import measure_separation

        return measure_separation.measure("quick" if quick else "all", work / part, threads)
    if part == "lips":
        import measure_lips

        return measure_lips.measure(quick, work / part, threads, given.portrait)
    import measure_voice

    if part == "voice":
        pairs = measure_voice.synthetic(quick)
    elif given.real is None:
        return {"rows": [], "figures": {}, "note": HOW_REAL}
    else:
        pairs = measure_voice.real(given.real, quick)
    found = measure_voice.measure(pairs, work / part, threads)
    prefix = "voice" if part == "voice" else "real_voice"
    found["figures"] = {f"{prefix}_{k}": v for k, v in found["figures"].items()}
    found["figures"] |= {f"{k}_aim": 1.0 for k in found["figures"]}
    return found


def draw(parts: dict[str, Any], work: Path, out: Path) -> None:
    """Sheets into the folder `out`."""
    from sheets import lips_sheet, sheet

    if "voice" in parts:
        folder = work / "voice" / "00"
        who = {"source": "source", "ours": "ours", "prototype M": "M", "prototype WMd": "WMd", "target": "target0"}
        sheet([(label, folder / f"{stem}.wav") for label, stem in who.items()], out / "voice.png", 8.0)
    if "separation" in parts:
        folder = work / "separation" / "song-b"
        rows = [("song-b: the song", folder / "song.wav")]
        rows += [(f"song-b: our {part}", folder / "parts" / f"{part}.wav") for part in ("vocals", "instrumental")]
        sheet(rows, out / "separation.png", 12.0)
    if "lips" in parts:
        rows = [(row["portrait"], Path(row.pop("curves"))) for row in parts["lips"]["rows"]]
        lips_sheet(rows, out / "lips.png")


def page(head: dict[str, Any], figures: dict[str, Any], parts: dict[str, Any], missed: list[str]) -> str:
    """The result for people."""
    device = head["device"]
    lines = [
        "# Quality", "",
        f"{head['date']}, {device['cpu']}, {device['cores']} cores, commit {head['commit']}: `{head['command']}`", "",
        f"Missed: {', '.join(missed) if missed else 'nothing'}.", "",
        table([{"ratio to the prototype (bigger is better)": k, "value": v, "aim": figures[f"{k}_aim"]}
               for k, v in figures.items() if k.endswith("_ratio")]),
    ]  # fmt: skip
    for part, found in parts.items():
        lines += [f"## {part.capitalize()}", "", found.get("note", "")]
        for title in ("means", "held_vocals_gain_db", "tuned_vocals_gain_db"):
            if found.get(title):
                lines.append(f"{title}: `{json.dumps(found[title])}`\n")
        if part == "separation":
            rows = found["rows"]
            for kind in (None, "a cappella", "no vocals"):
                same = [r for r in rows if r.get("kind") == kind]
                lines += [f"{kind or 'sums, SI-SDR in dB'}:", "", table(same)] if same else []
        elif found["rows"]:
            hidden = ("lags", "r_db_at_lags", "r_rms_at_lags", "audio")
            lines.append(table([{k: v for k, v in row.items() if k not in hidden} for row in found["rows"]]))
    lines += ["## Not measured, and how to read this", "", *(f"- {line}" for line in NOT_MEASURED), ""]
    return "\n".join(lines)


def main() -> int:
    parser = asked(__doc__, "short cases, under a minute on two free cores")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="recordings of real people, a folder each")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part (may be repeated)")
    parser.add_argument(
        "--portrait", nargs=2, type=Path, metavar=("PICTURE", "SINGING"), help="also judge lips on these"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the working files here")
    given = parser.parse_args()
    only = tuple(p for p in PARTS if p in (given.only or PARTS))
    out = RESULTS if only == PARTS and not given.quick else LOOKS
    head = about()
    with tempfile.TemporaryDirectory(prefix="quality-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        parts = run(given, only, work)
        if not (given.quick and len(only) > 1):  # the processes of the parts have drawn theirs
            draw(parts, work, out)
    figures = {k: v for found in parts.values() for k, v in found["figures"].items()}
    kept = out if out == RESULTS or len(only) > 1 else None
    blind = [*NOT_MEASURED] + ([] if given.real else ["real voices: " + HOW_REAL])
    text = page(head, figures, parts, verdict(figures))
    return tell("quality", given, head, figures, text, kept, parts=parts, not_measured=blind)


if __name__ == "__main__":
    sys.exit(main())
