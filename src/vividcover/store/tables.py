"""Every table, once. The same statements run on SQLite and on Postgres.

Times are unix seconds as a double, written by the database's own clock (`database.now()`), so that machines whose
clocks differ agree on who holds a lease. A hash is lower-case hex sha256. Booleans and JSON are SQLAlchemy's.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)  # fmt: skip

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
OPEN = "completed_at IS NULL"  # a run that is not over; a query says the same words to find it by its index
Big = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where the type is INTEGER

accounts = Table(
    "accounts", metadata,
    Column("id", String(26), primary_key=True),
    Column("username", String(64), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("type", String(16), nullable=False, default="user"),  # user | organization
    Column("admin", Boolean, nullable=False, default=False),
    Column("webhook_secret", String(80), nullable=False),  # whsec_…
    Column("budget_usd", Double),  # per calendar month; None: no limit
    Column("alert_webhook", Text),  # told at the thresholds of the budget
    Column("alerted", String(64), nullable=False, default=""),  # "2026-11:0.8", the last threshold that was told
    Column("storage_limit", BigInteger),  # bytes of live files; None: the setting
    Column("created_at", Double, nullable=False),
)  # fmt: skip

owners = Table(  # first part of owner/name: an account's username, and the names that it claimed by using them first
    "owners", metadata,
    Column("name", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=True),  # None: names of the shipped catalog
)  # fmt: skip

tokens = Table(
    "tokens", metadata,
    Column("id", String(26), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False, default=""),
    Column("hash", String(64), nullable=False, unique=True),  # sha256 of the token; the token itself is never kept
    Column("hint", String(16), nullable=False),  # r8_ab…yz, to tell tokens apart
    Column("scopes", String(200), nullable=False),  # space-separated: read write train admin
    Column("consent", Text, nullable=False, default=""),  # what its holder states about the people they train on
    Column("priority", Integer, nullable=False, default=0),
    Column("budget_usd", Double),
    Column("alerted", String(64), nullable=False, default=""),
    Column("rate_per_minute", Integer),  # None: the setting
    Column("turn", Double, nullable=False, default=0.0),  # fair order: the turn of the last run that was begun for it
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
)  # fmt: skip

models = Table(
    "models", metadata,
    Column("id", String(26), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("account_id", ForeignKey("accounts.id")),  # None: ships with the program
    Column("visibility", String(8), nullable=False),  # public | private
    Column("hardware", String(32), nullable=False, default="cpu"),
    Column("description", Text),
    Column("readme", Text),
    Column("github_url", Text),
    Column("paper_url", Text),
    Column("license_url", Text),
    Column("weights_url", Text),
    Column("cover_image_url", Text),
    Column("default_example", String(26)),  # run id
    Column("pinned_version", String(64)),  # what runs without a version, when set; else the newest
    Column("traffic", JSON(none_as_null=True)),  # version → share, of a comparison; a call without a version is drawn
    Column("run_count", Integer, nullable=False, default=0),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("owner", "name"),
)  # fmt: skip

examples = Table(  # runs that a model's owner shows to whoever may see the model
    "examples", metadata,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("created_at", Double, nullable=False),
)  # fmt: skip

versions = Table(
    "versions", metadata,
    Column("id", String(64), primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("number", Integer, nullable=False),  # 1, 2, … within the model
    Column("serves", String(130), nullable=False),  # catalog model that runs it, owner/name
    Column("weights", String(64)),  # sha256 of the trained model's artifact; None for the catalog's own
    Column("weights_file", String(200)),  # its file name, trained_model.tar
    Column("engine", String(16)),  # what trained it
    Column("trained_by", String(26)),  # run id
    Column("trainer", String(200)),  # owner/name:version
    Column("training_input", JSON),
    Column("dataset", String(64)),  # sha256 of the training data
    Column("trigger_word", String(64)),
    Column("licence", Text),
    Column("consent", Text),
    Column("changelog", Text, nullable=False, default=""),
    Column("created_at", Double, nullable=False),
    Column("deleted_at", Double),
)  # fmt: skip

runs = Table(
    "runs", metadata,
    Column("id", String(26), primary_key=True),
    Column("kind", String(10), nullable=False),  # prediction | training
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("token_id", String(26), nullable=False),
    Column("model", String(130), nullable=False),  # owner/name as shown
    Column("version", String(64), nullable=False),
    Column("serves", String(130), nullable=False),  # the catalog model that does it
    Column("weights", String(64)),  # sha256 of the trained model that it uses
    Column("engine", String(16), nullable=False, default="auto"),
    Column("destination", String(130)),  # of a training
    Column("note", Text),  # of a training: what to say of the version that it makes, in its changelog
    Column("deployment", String(130)),
    Column("input", JSON, nullable=False),  # as the client sent it, data: links put into files
    Column("files", JSON, nullable=False),  # link in the input → {"sha256", "name"} of the artifact behind it
    Column("consent", Text, nullable=False, default=""),
    Column("status", String(10), nullable=False),  # starting processing succeeded failed canceled aborted
    # {"files": [{"id", "name"}]} | {"text": …} | {"items": […]} | {"version": "o/n:id", "files": […]} of a training
    Column("output", JSON(none_as_null=True)),
    Column("output_shape", String(8), nullable=False, default="file"),  # file files text stream training
    Column("error", Text),
    Column("metrics", JSON, nullable=False),  # predict_time, total_time, …: seconds
    Column("source", String(8), nullable=False, default="api"),  # api | web | bfl
    Column("webhook", Text),
    Column("webhook_secret", Text),  # one that the caller brought for this run (BFL); else the account's
    Column("webhook_events", String(64), nullable=False, default=""),  # space-separated
    Column("stream_key", String(64)),  # of the unguessable stream link
    Column("aborts", Boolean, nullable=False, default=False),  # the client asked with Cancel-After and knows "aborted"
    Column("data_removed", Boolean, nullable=False, default=False),
    Column("device", String(32), nullable=False, default="any"),
    Column("reserved_usd", Double, nullable=False, default=0.0),  # what it is expected to cost, held of a budget
    Column("priority", Integer, nullable=False, default=0),
    Column("rank", Integer, nullable=False, default=0),  # -priority: an index is read in one direction
    Column("turn", Double, nullable=False, default=0.0),  # fair order within a priority
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("completed_at", Double),
    Column("deadline", Double),
    Column("cancel_requested_at", Double),
    Column("lease_owner", String(80)),
    Column("lease_until", Double),
    Column("fence", Integer, nullable=False, default=0),  # grows with every claim; writes of an older one are refused
    Column("attempts", Integer, nullable=False, default=0),
    # what concerns open runs is in indexes of open runs, so that one that ends leaves them, however many there were
    *(
        Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))
        for name, columns, where in (
            ("ix_runs_line", ("status", "rank", "turn"), OPEN),
            ("ix_runs_token_line", ("token_id", "status", "turn"), OPEN),
            ("ix_runs_lease_until", ("lease_until",), "lease_until IS NOT NULL"),
            ("ix_runs_deadline", ("deadline",), f"deadline IS NOT NULL AND {OPEN}"),
        )
    ),
    Index("ix_runs_account_created", "account_id", "kind", "created_at"),
    Index("ix_runs_model_created", "model", "created_at"),
)  # fmt: skip

stages = Table(  # the finished stages of a run, in order
    "stages", metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("key", String(64), nullable=False),
    Column("hit", Boolean, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("hosted_seconds", Double),  # of one that another service did: what it says that it took there …
    Column("usd", Double),  # … and what that costs
    Column("fence", Integer, nullable=False),
    Column("finished_at", Double, nullable=False),
)  # fmt: skip

shared_stages = Table(  # finished stages that a worker on another machine may go on from; their files are artifacts
    "shared_stages", metadata,
    Column("key", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("files", JSON, nullable=False),  # name → sha256
    Column("record", Text, nullable=False),  # the stage's stage.json
    Column("used_at", Double, nullable=False, index=True),
)  # fmt: skip

rates = Table(  # what tokens have asked in the last minute, of all server processes together
    "rates", metadata,
    Column("name", String(64), primary_key=True),  # create:TOKEN or other:TOKEN
    Column("taken", JSON, nullable=False),  # [[unix seconds, how many], …]
)  # fmt: skip

events = Table(  # what a run said, in order; the stream and `logs` are read from here
    "events", metadata,
    Column("id", Big, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(10), nullable=False),  # log | output | preview | progress
    Column("data", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_events_run_id_id", "run_id", "id"),
)  # fmt: skip

files = Table(
    "files", metadata,
    Column("id", String(26), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("run_id", String(26), index=True),  # set on outputs
    Column("sha256", String(64), nullable=False, index=True),
    Column("md5", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("content_type", String(100), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
)  # fmt: skip

deployments = Table(
    "deployments", metadata,
    Column("owner", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("model", String(130), nullable=False),
    Column("version", String(64), nullable=False),
    Column("hardware", String(32), nullable=False),
    Column("min_instances", Integer, nullable=False),
    Column("max_instances", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)  # fmt: skip

deliveries = Table(  # webhooks that are to be sent (outbox), and that were
    "deliveries", metadata,
    Column("id", String(40), primary_key=True),  # webhook-id, the same in every attempt
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("run_id", String(26), index=True),
    Column("event", String(16), nullable=False),  # start output logs completed alert
    Column("url", Text, nullable=False),
    Column("body", Text),  # of alerts and of events already sent; else made from the run when it is sent
    Column("secret", Text),  # of a webhook that brought its own (BFL); else the account's
    Column("state", String(10), nullable=False),  # waiting | sent | failed
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Double),
    Column("lease_until", Double),
    Column("created_at", Double, nullable=False),
    Column("done_at", Double),
    Index("ix_deliveries_state_next_at", "state", "next_at"),
)  # fmt: skip

attempts = Table(  # the delivery log
    "attempts", metadata,
    Column("id", Big, primary_key=True, autoincrement=True),
    Column("delivery_id", ForeignKey("deliveries.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("status", Integer),  # HTTP; None: no answer
    Column("error", Text),
    Column("seconds", Double, nullable=False),
)  # fmt: skip

usage = Table(
    "usage", metadata,
    Column("id", Big, primary_key=True, autoincrement=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("token_id", String(26), nullable=False),
    Column("run_id", String(26)),
    Column("model", String(130), nullable=False),
    Column("device", String(32), nullable=False),
    Column("engine", String(16), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("usd", Double, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_usage_account_id_at", "account_id", "at"),
    Index("ix_usage_token_id_at", "token_id", "at"),
)  # fmt: skip

finetunes = Table(  # the BFL-compatible API's view of trained image models
    "finetunes", metadata,
    Column("id", String(36), primary_key=True),  # uuid
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("run_id", String(26), nullable=False),
    Column("model", String(130), nullable=False),  # owner/name that the training makes a version of
    Column("details", JSON, nullable=False),  # finetune_comment, mode, trigger_word, iterations, …
    Column("created_at", Double, nullable=False),
    Column("deleted_at", Double),
)  # fmt: skip

workers = Table(
    "workers", metadata,
    Column("id", String(80), primary_key=True),  # host:pid:random
    Column("device", String(32), nullable=False),
    Column("run_id", String(26)),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)  # fmt: skip

facts = Table(  # secrets of this installation, and counters: name → value
    "facts", metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip
