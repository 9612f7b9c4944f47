"""The first tables."""

from alembic import op

from server import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version, from the one before."""
    tables.metadata.create_all(op.get_bind())
