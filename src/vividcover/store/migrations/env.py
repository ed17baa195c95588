"""Alembic's way in: `migrate.upgrade` hands over its connection, whose transaction holds everything."""

from alembic import context

from vividcover.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True,
    compare_type=True,
)  # fmt: skip
context.run_migrations()
