"""Whatever is sent to a connector is answered as the document that `serve` publishes says, and never with our fault."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from command import KEYS, SECRETS, Running, make_project
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

# `responsys` is buffered, `rdstation` direct; without a key every request but the worst would be a 401.
CONNECTORS = ("responsys", "rdstation")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = make_project(tmp_path_factory.mktemp("fuzzed"))
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        vendors = sandbox.lines_until("export XYZ_WRITE_KEY")[1].removeprefix("export CONNECT_VIA=")
        with Running("serve", "--port", "0", "--no-deliver", "--via", vendors, project=home, **SECRETS) as serve:
            said = serve.lines_until("Nothing is")
            port = said[0].partition("127.0.0.1:")[2].partition("/")[0]
            yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
            ended = serve.end()
    assert (ended.code, [line for line in ended.err.splitlines() if '"fault"' in line]) == (0, [])


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("connector", CONNECTORS)
def test_every_answer_is_as_documented(connector: str, mode: GenerationMode, document: Any) -> None:
    """`positive`: what fits the schema, from the client itself; `negative`: what does not fit it somewhere."""
    answers: dict[int, int] = {}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(document[f"/{connector}"]["POST"].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            assume(case.media_type == "application/json")  # of text/plain the document can only say that it is a text
            case.headers, case.query = {}, {}  # a made-up signature is a wrong one
        response = case.call(headers={**(case.headers or {}), "X-Connect-Key": KEYS[connector]})
        case.validate_response(response, checks=CHECKS)
        if mode is GenerationMode.POSITIVE and response.status_code == 400:
            assert response.json()["faults"][0]["reason"].startswith("a number with more than")
        answers[response.status_code] = answers.get(response.status_code, 0) + 1

    run()
    if mode is GenerationMode.POSITIVE:
        assert not {200, 202}.isdisjoint(answers), answers
        assert set(answers) <= {200, 202, 400, 403, 422}, answers  # another client is named, the mapping needs more
    else:
        assert {400, 401} <= set(answers), answers
