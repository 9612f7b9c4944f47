"""The whole interface against its own description, by schemathesis: whatever is asked, the answer is one that it names.

The application, the store and the orders are real; every check of schemathesis is on, with and without legal values.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import schemathesis
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events

from server.api.sources import Sources
from server.app import create_app

EXAMPLES = 6
_NUMBERS = count()


REFUSED = [200, 201, 204, 206, 304, 401, 403, 404, 409, 412, 429]
"""What legal values may be answered with: what is there may forbid it."""
SAYS_MORE = {
    "/api/v1/enrol": "keys and a certificate request that are signed",
    "/api/v1/enrolments": "a broker's URL",
    "/api/v1/tokens": "an end that lies ahead",
    "/api/v1/bundles": "an archive",
    "/api/v1/releases": "a release that is signed",
    "/api/v1/rollouts": "devices or a tag, not both",
    "/api/v1/runs/{run}/held-out": "examples",
    "/api/v1/runs": "a configuration that trains",
}
"""What no schema can say of a body, by path: it is refused as not legal, with a reason."""


def _config(headers: dict[str, str]) -> SchemathesisConfig:
    def accepting(*statuses: int) -> dict[str, Any]:
        return {"positive_data_acceptance": {"expected-statuses": [*REFUSED, *statuses]}}

    page = {"include-path": "/login", "checks": {"unsupported_method": {"enabled": False}}}
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "headers": headers,
            "cache": {"enabled": False},
            "generation": {"max-examples": EXAMPLES, "deterministic": True},
            "continue-on-failure": True,
            "checks": accepting(),
            "operations": [page, *({"include-path": path, "checks": accepting(422)} for path in SAYS_MORE)],
        }
    )


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _arguments: dict[str, Any]) -> None:
    """Keys are unique: one that was used for another request is refused, which is not what is looked for here."""
    key = (case.headers or {}).get("idempotency-key")
    if isinstance(key, str) and 1 <= len(key) <= 128:
        number = str(next(_NUMBERS))
        case.headers["idempotency-key"] = number + key[len(number) :]


def _failures(schema: schemathesis.BaseSchema) -> Iterator[str]:
    for event in engine.from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            yield str(event)
        if isinstance(event, events.ScenarioFinished):
            checks = (check for case in event.recorder.checks.values() for check in case)
            for failed in (check.failure_info for check in checks if check.failure_info is not None):
                yield f"{event.recorder.label}: {failed.failure.title}: {failed.failure.message}\n{failed.code_sample}"


def test_every_answer_is_one_that_is_described(sources: Sources, operator: dict[str, str]) -> None:
    app = create_app(replace(sources, broker_connected=lambda: True))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=_config(operator))
    found = list(_failures(schema.exclude(path="/api/v1/events/stream")))
    assert not found, "\n\n".join(found[:20])
