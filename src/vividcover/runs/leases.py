"""What a worker does with a run's row: take it for a while (a lease), write to it, end it. All by the database's clock.

    claim = claim_one(database, worker, device, warm=("zsxkib/sonic",), lease=30)
    with database.write() as db: record_stage(db, claim, stage)

Every claim raises the row's fence, and every write names the fence it was claimed with. So a worker that was taken for
dead, and whose run somebody else has taken up, can write nothing more: `LostLease`.

A run whose worker or child died is taken up again, and continues after its last finished stage. Attempts are counted
from there: three without finishing another stage, and the run fails with a text that says so.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BindParameter,
    Double,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection

from vividcover.runs.states import GOING, TERMINAL, LostLease, Row, begun, change, close, happened, locked, put_in
from vividcover.store.database import Database, now
from vividcover.store.ids import new_id
from vividcover.store.prepared import Prepared
from vividcover.store.tables import events, files, models, runs, stages, tokens, versions, workers

ATTEMPTS = 3  # claims of a run without another finished stage
Say = tuple[str, str]  # kind (log, output, preview, progress) and data


@dataclass(frozen=True)
class Claim:
    """A run that this worker holds. `run` is its row as it was claimed."""

    run: Mapping[str, Any]
    worker: str
    device: str
    fence: int
    weights_file: str | None = None

    @property
    def id(self) -> str:
        return str(self.run["id"])

    @property
    def again(self) -> bool:
        """Somebody has had it before."""
        return self.fence > 1

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the run is still this worker's, by what its row says now."""
        return bool(row["fence"] == self.fence and row["lease_owner"] == self.worker)


@dataclass
class Outcome:
    """How a run ended. Of the outputs, one of `files`, `text` and `items` is given."""

    status: str  # succeeded | failed | canceled
    error: str | None = None
    files: list[Mapping[str, Any]] = field(default_factory=list)  # {sha256, md5, bytes, name}
    text: str | None = None
    items: list[str] | None = None
    engine: str | None = None  # the one that served it
    details: Mapping[str, Any] = field(default_factory=dict)  # what a training's version should know
    trained: Mapping[str, Any] | None = None  # the file that a prediction has trained, which its text is to name


# --- taking ---------------------------------------------------------------------------------------------------------


def claim_one(
    database: Database, worker: str, device: str = "cpu", warm: Collection[str] | None = (), lease: float = 30.0
) -> Claim | None:
    """Takes the next run: one whose worker fell silent, else the first in the line. None: there is none.

    One of the models in `warm` (None: any) begins at once, since its child is waiting; others when theirs is up.
    """
    with database.write() as db:
        return take(db, worker, device, warm, lease)


def take(db: Connection, worker: str, device: str, warm: Collection[str] | None, lease: float) -> Claim | None:
    """`claim_one` as a part of the caller's transaction."""
    row = _next(db, device)
    if row is None:
        return None
    clock = row["clock"]
    begins = warm is None or row["serves"] in warm
    first = begins and row["started_at"] is None
    row = change(
        db, row, lease_owner=worker, lease_until=clock + lease, fence=row["fence"] + 1,
        attempts=row["attempts"] + 1, status="processing" if begins else row["status"],
        started_at=clock if first else row["started_at"],
    )  # fmt: skip
    SERVED.do(db, {"token": row["token_id"], "turn_now": row["turn"]})
    if first:
        happened(db, row, "start")
    return Claim(row, worker, device, row["fence"], _weights_file(db, row))


def begin(
    db: Connection, values: Mapping[str, Any], worker: str, device: str, ago: float, lease: float
) -> tuple[Claim, float]:
    """Puts in a run that was handed over, claimed and begun already; the claim, and the database's time.

    To be followed by `states.open_up`, or `finish`. Raises `LostLease` where its row is there.
    """
    row, clock = begun(db, values, worker, ago, lease)
    put_in(db, row)
    SERVED.do(db, {"token": row["token_id"], "turn_now": row["turn"]})
    return Claim(row, worker, device, row["fence"], values["weights_file"]), clock


def is_empty(db: Connection, device: str) -> bool:
    """Whether there is nothing to `take`."""
    return _next(db, device) is None


def _next(db: Connection, device: str) -> Row | None:
    mine = {"device": device}
    return FALLEN.one(db, mine) or FIRST.one(db, mine)


def _fallen() -> Select[Any]:
    # not "is open", for which SQLite would go through all that wait: what has a lease is few
    late = and_(runs.c.lease_until < now(), runs.c.status.not_in(TERMINAL), runs.c.attempts < ATTEMPTS)
    return _line().where(late).order_by(runs.c.lease_until)


def _first() -> Select[Any]:
    due = or_(runs.c.deadline.is_(None), runs.c.deadline > now())
    waits = and_(GOING, runs.c.status == "starting", runs.c.lease_until.is_(None), due)
    return _line().where(waits).order_by(runs.c.rank, runs.c.turn, runs.c.created_at)


def _line() -> Select[Any]:
    able = or_(runs.c.device == "any", runs.c.device == bindparam("device"))
    free = select(runs, now().label("clock")).where(able, runs.c.cancel_requested_at.is_(None))
    return free.limit(1).with_for_update(skip_locked=True)


def _served() -> Update:
    """Where the token has got to in the fair order."""
    turn: BindParameter[float] = bindparam("turn_now", type_=Double())
    return update(tokens).where(tokens.c.id == bindparam("token"), tokens.c.turn < turn).values(turn=turn)


FALLEN, FIRST, SERVED = Prepared(_fallen), Prepared(_first), Prepared(_served)


def _weights_file(db: Connection, row: Row) -> str | None:
    if row["weights"] is None:
        return None
    return db.scalar(select(versions.c.weights_file).where(versions.c.id == row["version"]))


def beat(db: Connection, claim: Claim, lease: float) -> None:
    """Says that the worker lives. Raises `LostLease`."""
    row, clock = _hold(db, claim)
    change(db, row, lease_until=clock + lease)
    db.execute(update(workers).where(workers.c.id == claim.worker).values(seen_at=now(), run_id=claim.id))


def look(database: Database, claim: Claim) -> str | None:
    """Whether the run should stop, and why: "canceled", "deadline". Raises `LostLease`."""
    with database.read() as db:
        found = LOOK.one(db, {"run": claim.id})
    if found is None or not claim.holds(found):
        raise _lost(claim)
    if found["cancel_requested_at"] is not None:
        return "canceled"
    return "deadline" if found["deadline"] is not None and found["deadline"] < found["clock"] else None


def _look() -> Select[Any]:
    c = runs.c
    told = select(c.cancel_requested_at, c.deadline, c.fence, c.lease_owner, now().label("clock"))
    return told.where(c.id == bindparam("run"))


LOOK = Prepared(_look)


def release(db: Connection, claim: Claim, why: str = "", *, counts: bool = True) -> None:
    """Gives the run back, to be taken up again at once. `counts=False`: nobody failed, the worker is leaving.

    Raises `LostLease`.
    """
    row, _ = _hold(db, claim)
    if why:
        say(db, claim, [("log", why + "\n")])
    change(db, row, lease_owner=None, lease_until=0.0, attempts=row["attempts"] - (0 if counts else 1))


# --- writing --------------------------------------------------------------------------------------------------------


def _hold(db: Connection, claim: Claim) -> tuple[Row, float]:
    """The run's row, locked, and the database's clock. Every write of a worker begins here. Raises `LostLease`."""
    found = locked(db, claim.id)
    if found is None or not claim.holds(found[0]):
        raise _lost(claim)
    return found


def _lost(claim: Claim) -> LostLease:
    return LostLease(f"Run {claim.id} is no longer this worker's: another has taken it up, or it is over.")


def started(db: Connection, claim: Claim) -> None:
    """Its child is up and begins. Raises `LostLease`."""
    row, clock = _hold(db, claim)
    first = row["started_at"] is None
    row = change(db, row, status="processing", started_at=clock if first else row["started_at"])
    if first:
        happened(db, row, "start")


def record_stage(db: Connection, claim: Claim, stage: Mapping[str, Any]) -> None:
    """A finished stage: {name, key, hit, seconds, spent}. One that is known and comes from the cache is not new.

    Raises `LostLease`.
    """
    row, _ = _hold(db, claim)
    if not stage["hit"] and row["attempts"] != 1:
        change(db, row, attempts=1)  # it got further
    same = and_(stages.c.run_id == claim.id, stages.c.key == stage["key"])
    known = same if stage["hit"] else and_(same, stages.c.fence == claim.fence)  # or: said twice by this very attempt
    if db.scalar(select(stages.c.position).where(known).limit(1)) is not None:
        return
    spent = {} if stage["hit"] else stage.get("spent") or {}
    last = db.scalar(select(func.max(stages.c.position)).where(stages.c.run_id == claim.id))
    db.execute(
        insert(stages).values(
            run_id=claim.id, position=0 if last is None else last + 1, name=stage["name"], key=stage["key"],
            hit=stage["hit"], seconds=stage["seconds"], hosted_seconds=spent.get("seconds"), usd=spent.get("usd"),
            fence=claim.fence, finished_at=now(),
        )
    )  # fmt: skip


def say(db: Connection, claim: Claim, said: Iterable[Say], output: Mapping[str, Any] | None = None) -> None:
    """What the run said, in order; `output` is what there is of its output by now. Raises `LostLease`."""
    said = list(said)
    row, _ = _hold(db, claim)
    _write(db, claim.id, said)
    if output is not None:
        row = change(db, row, output=dict(output))
        happened(db, row, "output")
    if any(kind == "log" for kind, _ in said):
        happened(db, row, "logs")


def _write(db: Connection, run_id: str, said: list[Say]) -> None:
    looks = [one for one in said if one[0] == "preview"]
    if looks:  # only the newest is kept
        _forget_looks(db, run_id)
        said = [one for one in said if one[0] != "preview" or one is looks[-1]]
    if said:
        SAID.do_all(db, [{"run_id": run_id, "kind": kind, "data": data} for kind, data in said])


def _forget_looks(db: Connection, run_id: str) -> None:
    db.execute(delete(events).where(events.c.run_id == run_id, events.c.kind == "preview"))


SAID = Prepared(lambda: insert(events).values(at=now()))


def finish(
    db: Connection, claim: Claim, outcome: Outcome, said: Iterable[Say] = (), keep_seconds: float = 0.0,
    now_is: float | None = None, soon: Callable[[Row], None] | None = None,
) -> Row:  # fmt: skip
    """Ends the run with all that belongs to it: last words, files, a trained version. Raises `LostLease`.

    `keep_seconds`: how long its files are kept; 0: for good. `now_is`: the database's time, where this very
    transaction has put the run in and written nothing to it since. `soon`: as in `states.close`.
    """
    row, clock = _hold(db, claim) if now_is is None else (claim.run, now_is)
    output, size = _output(db, claim, outcome, keep_seconds)
    row = close(
        db, row, clock, outcome.status, error=outcome.error, output=output, device=claim.device, engine=outcome.engine,
        size=size, soon=soon,
    )  # fmt: skip
    _write(db, claim.id, list(said))
    if outcome.status != "succeeded":  # what there is no video of is not looked at any more
        _forget_looks(db, claim.id)
    owner, _, name = row["model"].partition("/")
    COUNTED.do(db, {"of": owner, "called": name})
    return row


def _counted() -> Update:
    named = and_(models.c.owner == bindparam("of"), models.c.name == bindparam("called"))
    return update(models).where(named).values(run_count=models.c.run_count + 1)


COUNTED = Prepared(_counted)


def _output(db: Connection, claim: Claim, outcome: Outcome, keep: float) -> tuple[dict[str, Any] | None, int]:
    """The run's output as its column has it, and its bytes; the rows of its files are written."""
    if outcome.status != "succeeded":
        return None, 0
    if outcome.items is not None:
        return {"items": outcome.items}, len("".join(outcome.items).encode())
    if outcome.trained is not None:
        from vividcover.runs import finetunes

        known = outcome.trained
        name = finetunes.finished(db, claim.run, known["sha256"], known["name"], outcome.details)
        return {"text": name}, int(known["bytes"])
    if outcome.text is not None:
        return {"text": outcome.text}, len(outcome.text.encode())
    told = []
    for file in outcome.files:
        kind = mimetypes.guess_type(file["name"])[0] or "application/octet-stream"
        told.append({"id": new_id(), "name": file["name"]})
        db.execute(
            insert(files).values(
                id=told[-1]["id"], account_id=claim.run["account_id"], run_id=claim.id, sha256=file["sha256"],
                md5=file["md5"], name=file["name"], content_type=kind, bytes=file["bytes"], metadata={},
                created_at=now(), expires_at=now() + keep if keep else None,
            )
        )  # fmt: skip
    size = sum(file["bytes"] for file in outcome.files)
    if claim.run["kind"] != "training":
        return {"files": told}, size
    from vividcover.runs import registry

    first = outcome.files[0]
    version = registry.add_trained_version(db, claim.run, first["sha256"], first["name"], outcome.details)
    return {"version": f"{claim.run['destination']}:{version}", "files": told}, size
