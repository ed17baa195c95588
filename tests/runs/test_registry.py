"""What a reference leads to, who sees what, and how trained versions come, go and take turns. SQLite and Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from run_making import new_run, opened
from vividcover.catalog.pins import PINS
from vividcover.cover import models as catalog
from vividcover.errors import ForbiddenError, NotFoundError, ParameterError
from vividcover.runs import finetunes, registry, states
from vividcover.store.accounts import Principal
from vividcover.store.database import Database, now
from vividcover.store.tables import accounts, deployments, files, models, owners, versions

FAST = "8b10794665aed907bb98a1a5324cd1d3a8bea0e9b31e65210967fb9c9e2e08ed"
OSTRIS = "4ffd32160efd92e956d39c5338a9b8fbafca58e03f791f6d8011f3e20e8ea6fa"
RVC = "cf360587a27f67500c30fc31de1e0f0f9aa26dcd7b866e6ac937a07bd104bad9"


def someone(name: str) -> Principal:
    return Principal(
        account_id=name, username=name, token_id=f"t-{name}", token_name="", scopes=frozenset({"read", "write"}),
        admin=False, priority=0, rate=None, consent="",
    )  # fmt: skip


ALICE, BOB = someone("alice"), someone("bob")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url) as database:
        registry.sync_catalog(database)
        with database.write() as db:
            db.execute(sa.insert(accounts).values(
                id="bob", username="bob", name="Bob", webhook_secret="whsec_", created_at=now()
            ))  # fmt: skip
            for name in ("alice", "bob"):
                db.execute(sa.insert(owners).values(name=name, account_id=name))
        yield database


def train(database: Database, destination: str = "alice/me", sha: str = "a" * 64, **changes: Any) -> str:
    """A finished training's version, without the training."""
    values = {
        "kind": "training", "model": "ostris/flux-dev-lora-trainer", "serves": "ostris/flux-dev-lora-trainer",
        "version": OSTRIS, "destination": destination, "consent": "It is me.",
        "input": {"input_images": "http://x/p.zip", "trigger_word": "ALX", "hf_token": "hf_secret"},
        "files": {"http://x/p.zip": {"sha256": "d" * 64, "name": "p.zip"}},
    } | changes  # fmt: skip
    with database.write() as db:
        registry.destination(db, ALICE, destination)
        run = states.enqueue(db, new_run(**values))
        return registry.add_trained_version(db, run, sha, "trained_model.tar", {"engine": "classic", "licence": "L"})


def find(database: Database, reference: str, who: Principal = ALICE) -> registry.Resolved:
    with database.read() as db:
        return registry.resolve(db, who, reference)


def training(db: Connection) -> states.Row:
    """One of Alice's, whose destination is there."""
    registry.destination(db, ALICE, "alice/me")
    return states.enqueue(db, new_run(
        kind="training", serves="replicate/fast-flux-trainer", version=FAST, destination="alice/me"
    ))  # fmt: skip


def test_every_shipped_model_has_a_version_under_the_ids_that_published_code_pins(database: Database) -> None:
    for name, pinned in PINS.items():
        for version in pinned:
            assert find(database, version).model == find(database, f"{name}:{version}").serves == name
        assert find(database, name).version == pinned[-1]
    for name in catalog():
        assert registry.VERSION.fullmatch(find(database, name).version)
    assert {FAST, OSTRIS, RVC} <= {version for pinned in PINS.values() for version in pinned}


def test_starting_again_changes_nothing_and_an_older_releases_version_still_runs(database: Database) -> None:
    before = find(database, "vividcover/cover").version
    with database.write() as db:
        db.execute(sa.update(versions).where(versions.c.id == before).values(id="0" * 64))
    registry.sync_catalog(database)
    registry.sync_catalog(database)
    assert find(database, "vividcover/cover").version == before
    assert find(database, "0" * 64).serves == "vividcover/cover"
    with database.read() as db:
        assert (
            db.scalar(sa.select(sa.func.count()).where(models.c.owner == "vividcover", models.c.name == "cover")) == 1
        )


def test_every_form_of_a_reference_leads_to_the_version(database: Database) -> None:
    name = "replicate/train-rvc-model"
    forms = (
        name, f"{name}:latest", f"{name}:", f"{name}:{RVC}", RVC, f" {RVC} ", f"{name}:cf360587",
        f"{name}:{name}:{RVC}",
    )  # fmt: skip
    for reference in forms:
        assert find(database, reference).version == RVC, reference


def test_what_leads_nowhere_is_not_found(database: Database) -> None:
    name = "replicate/train-rvc-model"
    nowhere = (
        "", "x", "a/b", "a/b/c", "0" * 64, f"{name}:{'0' * 64}", f"{name}:newest", f"{name}:cf36",
        f"zsxkib/sonic:{RVC}", "a/b\x00c", "/", ":", f"{name}:../x", "é/ü", f"{name}:cf36058_",
    )  # fmt: skip
    for reference in nowhere:
        with pytest.raises(NotFoundError):
            find(database, reference)


def test_a_finished_training_makes_a_version_that_runs_at_once_and_knows_where_it_comes_from(
    database: Database,
) -> None:
    version = train(database, note="more photos")
    found = find(database, "alice/me")
    assert (found.version, found.serves, found.weights) == (version, "vividcover/flux-lora", "a" * 64)
    with database.read() as db:
        row = db.execute(sa.select(versions).where(versions.c.id == version)).mappings().one()
        model = registry.find(db, "alice", "me")
    assert model is not None and (model["visibility"], model["account_id"]) == ("private", "alice")
    assert row["training_input"] == {"input_images": "http://x/p.zip", "trigger_word": "ALX"}, "no secret is kept"
    assert (row["dataset"], row["trigger_word"], row["engine"]) == ("d" * 64, "ALX", "classic")
    assert (row["licence"], row["consent"], row["changelog"]) == ("L", "It is me.", "more photos")
    assert row["trainer"] == f"ostris/flux-dev-lora-trainer:{OSTRIS}"


def test_a_run_that_ends_twice_makes_one_version(database: Database) -> None:
    with database.write() as db:
        run = training(db)
    for _ in range(2):
        with database.write() as db:
            registry.add_trained_version(db, run, "a" * 64, "trained_model.tar", {})
    with database.read() as db:
        assert db.scalar(sa.select(sa.func.count()).where(versions.c.trained_by == run["id"])) == 1


def test_a_destination_that_was_deleted_meanwhile_is_made_again(database: Database) -> None:
    with database.write() as db:
        run = training(db)
        db.execute(sa.delete(models).where(models.c.owner == "alice"))
        version = registry.add_trained_version(db, run, "a" * 64, "trained_model.tar", {})
    assert find(database, "alice/me").version == version


def test_nobody_else_sees_a_private_model_and_the_answer_is_as_if_there_were_none(database: Database) -> None:
    version = train(database)
    for reference in ("alice/me", f"alice/me:{version}", version, "alice/me:latest", f"alice/me:{version[:12]}"):
        assert find(database, reference).version == version
        with pytest.raises(NotFoundError) as theirs:
            find(database, reference, BOB)
        with pytest.raises(NotFoundError) as nothing:
            find(database, reference.replace("alice/me", "alice/no").replace(version, "0" * 64), BOB)
        plain = str(theirs.value).replace("alice/me", "alice/no").replace(version, "0" * 64)
        assert plain == str(nothing.value) or version[:12] in str(theirs.value)
    with database.write() as db:
        db.execute(sa.update(models).where(models.c.owner == "alice").values(visibility="public"))
    assert find(database, "alice/me", BOB).version == version


def test_an_owner_name_belongs_to_whoever_uses_it_first(database: Database) -> None:
    with database.write() as db:
        registry.create_model(db, ALICE, "yourusername", "flux-custom-style")
    for owner in ("yourusername", "YourUserName", "alice", "replicate", "ostris"):
        with pytest.raises(ForbiddenError), database.write() as db:
            registry.create_model(db, BOB, owner, "mine")
    with pytest.raises((ForbiddenError, NotFoundError)), database.write() as db:
        registry.destination(db, BOB, "yourusername/flux-custom-style")
    with pytest.raises(ForbiddenError), database.write() as db:
        registry.destination(db, ALICE, "replicate/fast-flux-trainer")


def test_a_destination_that_cannot_be_one_is_refused(database: Database) -> None:
    for reference in ("", "x", "a/b/c", "alice/me:1", "alice/", "/x", "alice/a b", "alice/-x", "a\x00/b"):
        with pytest.raises(ParameterError), database.write() as db:
            registry.destination(db, ALICE, reference)


def test_the_newest_version_runs_until_one_is_promoted_and_then_that_one_also_as_latest(database: Database) -> None:
    first, second = train(database, sha="1" * 64), train(database, sha="2" * 64)
    assert find(database, "alice/me").version == second
    with database.write() as db:
        db.execute(sa.update(models).where(models.c.owner == "alice").values(pinned_version=first))
    third = train(database, sha="3" * 64)
    assert find(database, "alice/me").version == find(database, "alice/me:latest").version == first
    with database.write() as db:
        row = db.execute(sa.select(versions).where(versions.c.id == first)).mappings().one()
        registry.delete_version(db, row)
    assert find(database, "alice/me").version == third
    with pytest.raises(NotFoundError):
        find(database, first)


def test_a_comparison_draws_by_shares_and_a_version_that_is_gone_is_not_drawn(database: Database) -> None:
    first, second = train(database, sha="1" * 64), train(database, sha="2" * 64)
    with database.write() as db:
        db.execute(sa.update(models).where(models.c.owner == "alice").values(traffic={first: 3.0, second: 1.0}))
    drawn = [find(database, "alice/me").version for _ in range(200)]
    assert 110 < drawn.count(first) < 185  # 150 expected; six standard deviations
    assert find(database, f"alice/me:{second}").version == second
    with database.write() as db:
        row = db.execute(sa.select(versions).where(versions.c.id == first)).mappings().one()
        registry.delete_version(db, row)
    assert {find(database, "alice/me").version for _ in range(20)} == {second}


def test_what_a_deleted_version_learnt_is_no_longer_kept(database: Database) -> None:
    version = train(database)
    with database.write() as db:
        row = db.execute(sa.select(versions).where(versions.c.id == version)).mappings().one()
        db.execute(sa.insert(files).values(
            id="f", account_id="alice", run_id=row["trained_by"], sha256="a" * 64, md5="", name="trained_model.tar",
            content_type="", bytes=1, metadata={}, created_at=now(),
        ))  # fmt: skip
        registry.delete_version(db, row)
    from vividcover.runs import sweep

    assert "a" * 64 not in sweep.live(database)


def test_a_deployment_runs_its_version_for_its_account_only(database: Database) -> None:
    version = train(database)
    with database.write() as db:
        db.execute(sa.insert(deployments).values(
            owner="alice", name="d", account_id="alice", model="alice/me", version=version, hardware="cpu",
            min_instances=0, max_instances=1, number=1, created_at=now(), changed_at=now(),
        ))  # fmt: skip
    with database.read() as db:
        found = registry.resolve_deployment(db, ALICE, "alice", "d")
        assert (found.version, found.deployment, found.weights) == (version, "alice/d", "a" * 64)
        with pytest.raises(NotFoundError):
            registry.resolve_deployment(db, BOB, "alice", "d")


def test_a_finetune_is_found_by_its_id_its_training_and_its_version_by_its_owner_only(database: Database) -> None:
    version = train(database)
    with database.write() as db:
        run_id = db.scalar(sa.select(versions.c.trained_by).where(versions.c.id == version))
        finetune = finetunes.add(db, "alice", run_id, "alice/me", {"mode": "character", "secret": 1})
        assert finetunes.add(db, "alice", run_id, "alice/me", {}) == finetune, "once"
    with database.read() as db:
        for reference in (finetune, finetune.upper(), run_id, version, "alice/me", f"alice/me:{version}"):
            assert finetunes.trained(db, ALICE, reference).version == version
            with pytest.raises(NotFoundError):
                finetunes.trained(db, BOB, reference)
        assert finetunes.get(db, ALICE, finetune)["details"] == {"mode": "character"}
        assert [row["id"] for row in finetunes.listed(db, ALICE)] == [finetune]
        assert finetunes.listed(db, BOB) == []
        for nothing in ("zsxkib/sonic", "0" * 26, "x", "00000000-0000-0000-0000-000000000000"):
            with pytest.raises(NotFoundError):
                finetunes.trained(db, ALICE, nothing)
    with database.write() as db:
        finetunes.delete(db, ALICE, finetune)
    with database.read() as db, pytest.raises(NotFoundError):
        finetunes.trained(db, ALICE, version)


def test_a_finetune_that_is_still_trained_says_so(database: Database) -> None:
    with database.write() as db:
        run = states.enqueue(db, new_run(kind="training", serves="black-forest-labs/flux-pro-trainer"))
        finetune = finetunes.add(db, "alice", run["id"], "alice/me", {})
    with database.read() as db, pytest.raises(NotFoundError, match="it is starting"):
        finetunes.trained(db, ALICE, finetune)
