"""The shape of a read: what a partner may ask for of a contract."""

from __future__ import annotations

import pytest

from gateway.errors import InvalidParameter
from gateway.subscription.request import ReadRequest
from gateway.subscription.shape import MAX_POINTER_DEPTH, shape_of
from tests.test_splice import contract


def test_fields_deeper_than_the_bound_are_refused() -> None:
    deepest = "/p" * MAX_POINTER_DEPTH
    assert shape_of(contract(), ReadRequest(fields=deepest), transport="pull", filters=(), masks=()).projection == (
        deepest,
    )
    for pointer in (deepest + "/p", "/p" * 1500):
        with pytest.raises(InvalidParameter, match="deeper"):
            shape_of(contract(), ReadRequest(fields=pointer), transport="pull", filters=(), masks=())
