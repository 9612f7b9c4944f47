"""Where Alembic begins: it works on the connection that `server.database_schema` hands it, in its transaction."""

from alembic import context

from server import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
