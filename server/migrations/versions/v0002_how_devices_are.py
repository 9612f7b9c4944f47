"""How devices are."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version, from the one before."""
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("release", sa.String(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("temperature", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("throttled", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("paused", sa.String(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("budget_left", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("free_mb", sa.BigInteger(), nullable=True))
