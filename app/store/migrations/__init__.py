"""Alembic revisions that lead to `app.store.schema`."""
