"""The OpenAPI document, and whether the broker keeps to it: schemathesis asks what it allows."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_schema_validator import OAS31Validator
from schemathesis.checks import CHECKS

from support import process

# A stream has no end that could be waited for; its refusals are in test_sse.py.
STREAMS = {"subscribe", "trace"}
# Draining ends the broker that is asked.
ENDS = {"drain"}
ASKED = ["not_a_server_error", "content_type_conformance", "response_schema_conformance", "status_code_conformance"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A broker of its own: it is asked a lot."""
    broker = process.start(tmp_path_factory.mktemp("openapi"))
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def document(asked):
    return schemathesis.openapi.from_url(asked.http_url("/api/openapi.json"))


@pytest.mark.timeout(300)
def test_the_broker_keeps_to_its_document(asked, document):
    checks = [CHECKS.get_one(name) for name in ASKED]
    names = set()
    for found in document.get_all_operations():
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        names.add(name)
        if name in STREAMS | ENDS:
            continue

        @given(case=operation.as_strategy())
        @settings(
            max_examples=60,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case):
            case.call_and_validate(checks=checks, timeout=20)

        ask()
    assert len(names) > 25
    assert asked.metric("polycast_http_requests_total") > 10 * len(names)


def test_the_document_is_one(asked):
    document = httpx.get(asked.http_url("/api/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    for shape in document["components"]["schemas"].values():
        OAS31Validator.check_schema(shape)
