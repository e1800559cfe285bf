"""The OpenAPI documents keep their word: schemathesis asks for what they allow, and what not."""

from collections import defaultdict
from itertools import chain, count
from typing import Any

import pytest

from runtime.web.once import HEADER, KEY
from tests.shop.conftest import stocked  # noqa: F401  # a fixture, asked for by its name

schemathesis = pytest.importorskip("schemathesis", reason="requirements-dev.txt has it")
config = pytest.importorskip("schemathesis.config")
engine = pytest.importorskip("schemathesis.engine.core")

# No schema can tell which items there are, and which orders to go on after.
REFUSALS = {
    "include-name": ["POST /api/checkout", "GET /api/orders"],
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "304", "422"]}},
}
numbers = count()


def whole(value: Any) -> Any:
    """The same JSON, with 1 for 1.0."""
    match value:
        case dict():
            return {name: whole(entry) for name, entry in value.items()}
        case list():
            return [whole(entry) for entry in value]
        case float() if value.is_integer():
            return int(value)
    return value


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: Any) -> None:
    """Spare what no schema can tell: which keys were used before, and that 1.0 is no integer."""
    case.body = whole(case.body)
    if KEY.fullmatch(key := case.headers.get(HEADER, "")):
        fresh = str(next(numbers))
        case.headers[HEADER] = f'"{fresh} "' if key.startswith('"') else fresh


LONG = pytest.param(150, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])


@pytest.mark.parametrize("name", ["inventory", "stocked", "payment"])
@pytest.mark.parametrize("examples", [5, LONG])
def test_every_answer_is_documented(
    name: str, examples: int, request: pytest.FixtureRequest
) -> None:
    """Good requests are taken, bad ones are refused, and the document tells of every answer.

    Each operation is asked by itself, and after others with what those have answered.
    """
    settings = {"seed": 1, "generation": {"deterministic": True, "max-examples": examples}}
    document = schemathesis.openapi.from_wsgi(
        "/openapi.json",
        request.getfixturevalue(name).app(),
        config=config.SchemathesisConfig.from_dict({**settings, "operations": [REFUSALS]}),
    )
    failures, statuses = [], defaultdict(set)
    for event in engine.Engine(document).execute():
        if isinstance(event, engine.events.NonFatalError | engine.events.FatalError):
            failures.append(str(event))
        elif isinstance(event, engine.events.ScenarioFinished):
            seen = event.recorder
            for case_id, exchange in seen.interactions.items():
                operation = seen.cases[case_id].value.operation.label
                statuses[operation].add(exchange.response.status_code)
            found = (check.failure_info for check in chain(*seen.checks.values()))
            failures += [f"{each.failure}\n{each.code_sample}" for each in found if each]
    assert not failures, "\n\n".join(failures)
    assert set(statuses) == {each.ok().label for each in document.get_all_operations()}
    assert all(seen & {200, 201} for seen in statuses.values()), statuses
