"""Alembic's entry point: runs the revisions on the connection that app.store.migrate opened."""

from alembic import context

from app.store.migrate import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
