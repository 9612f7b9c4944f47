"""Traces of rounds by OpenTelemetry: a span for a round, from its opening to its close, and one for each step of that.

Without an SDK this does nothing. With one (`opentelemetry-instrument fisherfleet serve ...`) the standard `OTEL_`
variables say where spans go: https://opentelemetry.io/docs/languages/sdk-configuration/.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

from wire_protocol.messages import RoundPlan

_tracer = trace.get_tracer("fisherfleet.server")


@contextmanager
def round_span(plan: RoundPlan, opened: float) -> Iterator[None]:
    """The round's span while it is closed; `opened` is in seconds since the Unix epoch."""
    attributes: dict[str, str | int] = {"fisherfleet.run": plan.run, "fisherfleet.round": plan.round}
    with _tracer.start_as_current_span("round", attributes=attributes, start_time=int(opened * 1e9)):
        yield


@contextmanager
def step_span(name: str) -> Iterator[None]:
    """A step of the round whose span is open."""
    with _tracer.start_as_current_span(name):
        yield
