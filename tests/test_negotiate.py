"""Which protocol an Accept header asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NotAcceptable
from gateway.model import Transport
from gateway.transport.negotiate import MEDIA_TYPES, SUFFIXES, demand, negotiate


@pytest.mark.parametrize(
    ("accept", "transport"),
    [
        ([], "pull"),
        ([b""], "pull"),
        ([b"*/*"], "pull"),
        ([b"application/json"], "pull"),
        ([b"APPLICATION/JSON"], "pull"),
        ([b"application/*"], "pull"),
        ([b"text/event-stream"], "sse"),
        ([b"text/*"], "sse"),
        ([b"application/x-ndjson"], "ndjson"),
        ([b"application/x-ndjson; charset=utf-8"], "ndjson"),
        ([b"text/event-stream, */*;q=0.1"], "sse"),
        ([b"text/html, application/xhtml+xml, */*;q=0.8"], "pull"),
        ([b"application/json;q=0.5, text/event-stream;q=0.9"], "sse"),
        ([b"application/json ; q=0.5 ,application/x-ndjson; Q=0.6"], "ndjson"),
        # The more specific range counts, whatever its weight (RFC 9110 §12.5.1).
        ([b"*/*, application/json;q=0.1"], "sse"),
        ([b"application/json;q=0, */*"], "sse"),
        ([b"application/*;q=0.2, application/x-ndjson"], "ndjson"),
        ([b"text/html", b"text/event-stream"], "sse"),
        ([b"nonsense, text/event-stream"], "sse"),
        # What is equally welcome is served in our order.
        ([b"text/event-stream, application/json"], "pull"),
    ],
)
def test_the_best_welcome_protocol_is_served(accept: list[bytes], transport: Transport) -> None:
    assert negotiate(accept) == transport


@pytest.mark.parametrize(
    "accept",
    [
        [b"text/html"],
        [b"image/*"],
        [b"application/xml, text/html;q=0.9"],
        [b"*/*;q=0"],
        [b"application/json;q=0"],
        [b"text/event-stream;q=nan"],
        [b"text/event-stream;q=2"],
        [b"text/event-stream;q="],
    ],
)
def test_what_nothing_serves_is_refused_with_what_is_served(accept: list[bytes]) -> None:
    with pytest.raises(NotAcceptable) as caught:
        negotiate(accept)
    assert caught.value.status == 406
    for media, _ in MEDIA_TYPES:
        assert media in caught.value.detail


@pytest.mark.parametrize("accept", [[], [b"*/*"], [b"text/*"], [b"text/event-stream"], [b"text/html, */*;q=0.1"]])
def test_a_forced_protocol_is_served_to_whoever_does_not_rule_it_out(accept: list[bytes]) -> None:
    demand(accept, "text/event-stream")


@pytest.mark.parametrize("accept", [[b"application/json"], [b"text/event-stream;q=0, */*"], [b"text/html"]])
def test_a_forced_protocol_that_is_ruled_out_is_refused(accept: list[bytes]) -> None:
    with pytest.raises(NotAcceptable, match="text/event-stream"):
        demand(accept, "text/event-stream")


@given(st.lists(st.binary(max_size=60) | st.from_regex(rb"[a-z*/;=q0-9., -]{0,50}", fullmatch=True), max_size=3))
def test_any_accept_is_served_or_refused(accept: list[bytes]) -> None:
    try:
        assert negotiate(accept) in ("sse", "ndjson", "pull")
    except NotAcceptable as error:
        assert error.status == 406


def test_every_protocol_has_a_suffix_of_its_own() -> None:
    assert sorted(SUFFIXES.values()) == sorted({"sse", "ws", "pull", "ndjson"})
