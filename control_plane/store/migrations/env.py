"""Tells Alembic which connection to use: the one that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from control_plane.store import tally_schema, watch_schema

assert tally_schema.tally.metadata is watch_schema.watch.metadata, "one database"
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=watch_schema.watch.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
