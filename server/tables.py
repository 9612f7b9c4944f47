"""The database's tables, of types that SQLite and PostgreSQL have both."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    false,
)

metadata = MetaData()

OPEN, CLOSED, ABANDONED = "open", "closed", "abandoned"
"""Of a round: its status."""

runs = Table(
    "runs",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("bundle", String(64), nullable=False),
    Column("started", Float, nullable=False),
    Column("config", JSON, nullable=False),
    Column("status", String(16), nullable=False, default="created"),
    Column("reason", String, nullable=False, default=""),
    Column("resync_due", Boolean, nullable=False, default=False),
    Column("roll_back_to", Integer),
    Column("rolled_back", Integer, nullable=False, default=0),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("resync", Boolean, nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("expected", JSON, nullable=False),
    Column("opened", Float, nullable=False),
    Column("accuracy", Float),
    Column("loss", Float),
    *(
        Column(name, BigInteger, nullable=False, default=0)
        for name in (
            "updates_accepted",
            "updates_rejected",
            "bytes_up",
            "bytes_down",
            "bytes_up_dense",
            "bytes_down_dense",
            "trained_macs",
            "scored_macs",
            "full_macs",
        )
    ),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("model_version", Integer, nullable=False, default=0),
    Column("updates_late", Integer, nullable=False, default=0),
    Column("ranking", LargeBinary),
    Column("clip_norm", Float),
)

devices = Table(
    "devices",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("online", Boolean, nullable=False),
    Column("examples", BigInteger, nullable=False),
    Column("runtime", String, nullable=False),
    Column("client", String, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("kept", JSON, nullable=False),
    Column("release", String, nullable=False, server_default=""),
    Column("temperature", Float),
    Column("throttled", Boolean, nullable=False, server_default=false()),
    Column("paused", String, nullable=False, server_default=""),
    Column("budget_left", Float),
    Column("free_mb", BigInteger),
)


def _of_device_in_round() -> tuple[Column[Any], ...]:
    return (
        Column("run", String(64), primary_key=True),
        Column("round", Integer, primary_key=True),
        Column("device", String(64), primary_key=True),
        Column("sha256", LargeBinary(32), nullable=False),
    )


updates = Table(
    "updates",
    metadata,
    *_of_device_in_round(),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("counted_in", Integer, nullable=False, index=True),
)

refusals = Table(
    "refusals",
    metadata,
    *_of_device_in_round(),
    Column("reason", String, nullable=False),
    Column("cause", String(32), nullable=False),
)

outliers = Table(
    "outliers",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("reason", String, nullable=False),
)

quarantines = Table(
    "quarantines",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("run", String(64), nullable=False),
    Column("round", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("reason", String, nullable=False),
    Column("held", Boolean, nullable=False),
)

conflicts = Table("conflicts", metadata, *_of_device_in_round(), Column("times", BigInteger, nullable=False))

selections = Table(
    "selections",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("round", Integer, nullable=False),
    Column("resync_round", Integer, nullable=False),
    Column("kept", LargeBinary, nullable=False),
)

ledgers = Table(
    "ledgers",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("count", BigInteger, primary_key=True),
    Column("head", LargeBinary(32), nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)

replies = Table(
    "replies",
    metadata,
    Column("actor", String(64), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("request", LargeBinary(32), nullable=False),
    Column("at", Float, nullable=False, index=True),
    Column("status", Integer, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("devices", Integer, nullable=False),
    Column("left", Integer, nullable=False),
    Column("device", String(64)),
    Column("broker", String),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("actor", String(64), nullable=False),
)

enrolled = Table(
    "enrolled",
    metadata,
    Column("enrolment", Integer, primary_key=True),
    Column("applicant", LargeBinary(32), primary_key=True),
)
"""Who was taken in by which enrolment token: `Applicant.digest`."""

device_tags = Table(
    "device_tags",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("tag", String(64), primary_key=True, index=True),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("text", String, nullable=False),
    Column("run", String(64), index=True),
    Column("round", Integer),
    Column("device", String(64), index=True),
    Column("actor", String(64)),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("accuracy", Float),
    Column("loss", Float),
    Column("sha256", String(64), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("promoted", Boolean, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("system", String(32), primary_key=True),
    Column("python", String(8), nullable=False),
    Column("architecture", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("signed", LargeBinary, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("version", String(64), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("devices", JSON, nullable=False),
    Column("tag", String(64)),
    Column("fraction", Float, nullable=False),
    Column("halt_at", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("at", Float, nullable=False),
)

release_reports = Table(
    "release_reports",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("version", String(64), nullable=False),
    Column("offered", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String, nullable=False),
    Column("models", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("promotion", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
)
