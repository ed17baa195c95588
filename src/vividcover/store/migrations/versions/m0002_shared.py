"""Several machines and servers: stages that others go on from, rates counted together, what hosted runs took."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("stages", sa.Column("hosted_seconds", sa.Double(), nullable=True))
    op.add_column("stages", sa.Column("usd", sa.Double(), nullable=True))
    op.create_table(
        "shared_stages",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_shared_stages")),
    )
    op.create_index(op.f("ix_shared_stages_used_at"), "shared_stages", ["used_at"], unique=False)
    op.create_table(
        "rates",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("taken", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rates")),
    )
