"""Has autovacuum come after as many settled deliveries however many there are."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Set what only PostgreSQL has."""
    if op.get_context().dialect.name != "postgresql":
        return
    # What is settled leaves entries behind at the beginning of the indexes on what is pending. Whoever asks
    # for the oldest walks over them until the table is vacuumed, by default after a fifth of it has changed;
    # and a vacuum by itself leaves them there as long as they come from less than 2 % of the table's pages.
    op.execute(
        "ALTER TABLE rapidbridge_deliveries SET (autovacuum_vacuum_scale_factor = 0, "
        "autovacuum_vacuum_threshold = 20000, vacuum_index_cleanup = on)"
    )
