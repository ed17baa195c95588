"""Indexes of the runs that are open, instead of all that ever were."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OPEN = "completed_at IS NULL"


def upgrade() -> None:
    for name, columns, where in (
        ("ix_runs_line", ["status", "rank", "turn"], OPEN),
        ("ix_runs_token_line", ["token_id", "status", "turn"], OPEN),
        ("ix_runs_lease_until", ["lease_until"], "lease_until IS NOT NULL"),
        ("ix_runs_deadline", ["deadline"], f"deadline IS NOT NULL AND {OPEN}"),
    ):
        op.drop_index(name, "runs")
        op.create_index(name, "runs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
