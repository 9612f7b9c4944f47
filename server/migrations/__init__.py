"""The database's schema, from one version to the next: https://alembic.sqlalchemy.org."""
