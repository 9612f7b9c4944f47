"""Who was taken in by which enrolment token."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version, from the one before."""
    op.create_table(
        "enrolled",
        sa.Column("enrolment", sa.Integer(), nullable=False),
        sa.Column("applicant", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("enrolment", "applicant"),
    )
