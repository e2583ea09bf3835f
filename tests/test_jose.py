"""What tokens and keys are written in has one reading or none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.jose import Malformed, decode_base64url, decode_object, encode_base64url


@given(data=st.binary(max_size=300))
def test_base64url_reads_back_what_it_wrote(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data).encode()) == data


@given(text=st.binary(max_size=12) | st.text("ABCZaz09-_+/=", max_size=12).map(str.encode))
def test_base64url_reads_only_what_it_would_write(text: bytes) -> None:
    try:
        data = decode_base64url(text)
    except Malformed:
        return
    assert encode_base64url(data).encode() == text


@given(
    value=st.dictionaries(
        st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20)
    )
)
def test_json_without_oddities_is_read_as_everybody_reads_it(value: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        assert decode_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize("depth", [31, 32])
def test_json_may_be_32_deep_and_not_deeper(depth: int) -> None:
    text = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    if depth + 1 <= 32:
        assert decode_object(text)
    else:
        with pytest.raises(Malformed, match="too_deep"):
            decode_object(text)
