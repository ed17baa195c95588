"""Separation on true sums: ours, the prototype's and the untouched mixture, in one run."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from cases import Case, separation_cases
from figures import level_db, power_ratio, si_sdr
from machine import spent
from peers.prototype_separation import separate as prototype
from vividcover.song.pcm import read_pcm, write_pcm
from vividcover.song.separate import separate

CEILING, FLOOR = 30.0, -15.0  # dB: above all is there, below nothing is; one case should not rule the mean
LEAK_FLOOR = -60.0  # dB
Row = dict[str, Any]


def measure(which: str, work: Path, threads: int) -> dict[str, Any]:
    """`which`: "quick" or "all". Rows per case and what they come to."""
    rows = [_measure(group, case, work / case.name, threads) for group, case in separation_cases(which)]
    return {"rows": rows, **_sum_up(rows)}


def _measure(group: str, case: Case, folder: Path, threads: int) -> Row:
    folder.mkdir(parents=True)
    song = write_pcm(folder / "song.wav", case.song)
    with spent() as ours_cost:
        parts = separate(song, folder / "parts", threads=threads)
    lead, instrumental = read_pcm(parts.vocals)[0], read_pcm(parts.instrumental)[0]
    vocals = lead + read_pcm(parts.backing)[0] if parts.backing else lead
    with spent() as their_cost:
        their_vocals, their_instrumental = prototype(case.song.astype(np.float64))
    row: Row = {"case": case.name, "group": group, "seconds": round(case.seconds, 1), "recipe": parts.recipe}
    sung, played = bool(np.any(case.vocals)), bool(np.any(case.instrumental))
    if sung and played:
        row |= _scores("vocals", case.vocals, case.song, vocals, their_vocals)
        row |= _scores("instrumental", case.instrumental, case.song, instrumental, their_instrumental)
    elif sung:
        row |= {"kind": "a cappella"} | _leaks(case.song, instrumental, their_instrumental)
    else:
        row |= {"kind": "no vocals"} | _leaks(case.song, vocals, their_vocals)
    row["backing"] = parts.backing is not None
    if case.lead is not None:
        row |= {f"lead_{who}": round(si_sdr(case.lead, x), 2) for who, x in (("all_vocals", vocals), ("ours", lead))}
    row["sum_error_db"] = round(level_db(case.song - vocals - instrumental, case.song), 1)
    row["cpu_per_second"] = round(ours_cost.seconds / case.seconds, 3)
    row["prototype_cpu_per_second"] = round(their_cost.seconds / case.seconds, 3)
    return row


def _scores(part: str, truth: Any, song: Any, ours: Any, theirs: Any) -> Row:
    values = (min(max(si_sdr(truth, x), FLOOR), CEILING) for x in (song, ours, theirs))
    return {f"{part}_{who}": round(v, 2) for who, v in zip(("mixture", "ours", "prototype"), values)}


def _leaks(song: Any, ours: Any, theirs: Any) -> Row:
    """How loud the part that should be empty is, in dB of the song."""
    return {"leak_ours": _leak(ours, song), "leak_prototype": _leak(theirs, song)}


def _leak(part: Any, song: Any) -> float:
    return round(max(level_db(part, song), LEAK_FLOOR), 1)


def _sum_up(rows: list[Row]) -> dict[str, Any]:
    sums = [row for row in rows if "vocals_ours" in row]
    out: dict[str, Any] = {"figures": {}, "means": {}}
    for part in ("vocals", "instrumental"):
        m = {who: round(mean(row[f"{part}_{who}"] for row in sums), 2) for who in ("mixture", "ours", "prototype")}
        out["means"][part] = m
        out["figures"][f"separation_{part}_ratio"] = power_ratio(m["ours"], m["prototype"])
        out["figures"][f"separation_{part}_ratio_aim"] = 1.0
    worst = min(
        min(row[f"{part}_ours"] - row[f"{part}_mixture"] for part in ("vocals", "instrumental")) for row in sums
    )
    out["worst_gain_over_mixture_db"] = round(worst, 2)
    out["figures"] |= {
        "separation_never_below_mixture_ratio": power_ratio(worst, 0.0), "separation_never_below_mixture_ratio_aim": 1.0
    }  # fmt: skip
    for kind, name in (("a cappella", "a_cappella"), ("no vocals", "no_vocals")):
        found = [row for row in rows if row.get("kind") == kind]
        if found:
            ours, theirs = mean(r["leak_ours"] for r in found), mean(r["leak_prototype"] for r in found)
            out["figures"] |= {f"separation_{name}_ratio": power_ratio(-ours, -theirs),
                               f"separation_{name}_ratio_aim": 1.0}  # fmt: skip
    led = [row for row in rows if "lead_ours" in row]
    if led:  # how much nearer the lead alone is to the lead than all vocals together are
        out["lead_gain_db"] = {row["case"]: round(row["lead_ours"] - row["lead_all_vocals"], 2) for row in led}
    out["held_vocals_gain_db"] = _gain([row for row in sums if row["group"] == "held"])
    out["tuned_vocals_gain_db"] = _gain([row for row in sums if row["group"] == "tuned"])
    return out


def _gain(rows: list[Row]) -> dict[str, float] | None:
    if not rows:
        return None
    return {
        who: round(mean(r[f"vocals_{who}"] - r["vocals_mixture"] for r in rows), 2) for who in ("ours", "prototype")
    }
