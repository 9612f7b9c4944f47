import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server import round_trace
from wire_protocol.messages import RoundPlan


def test_a_round_is_a_span_from_its_opening_with_its_steps_in_it(
    make_plan: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(round_trace, "_tracer", provider.get_tracer("test"))
    plan: RoundPlan = make_plan()
    with round_trace.round_span(plan, opened=1.5), round_trace.step_span("combine"):
        pass
    step, whole = kept.get_finished_spans()
    assert (step.name, whole.name, whole.start_time) == ("combine", "round", 1_500_000_000)
    assert step.parent.span_id == whole.context.span_id
    assert whole.attributes == {"fisherfleet.run": "run", "fisherfleet.round": 3}


def test_without_an_sdk_nothing_happens(make_plan: object) -> None:
    with round_trace.round_span(make_plan(), opened=0.0), round_trace.step_span("screen"):
        pass
