"""Alembic's entry point: runs the revisions on the connection of app.store.migrate."""

from alembic import context

from app.store.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    # Without effect inside the caller's transaction, as in SQLite.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
