"""How a database gets to `app.store.schema`, one Alembic revision after the other."""
