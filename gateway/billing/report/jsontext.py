"""A statement as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def spell(statement: Mapping[str, Any]) -> bytes:
    """The statement as ``statement.shown`` gives it, for machines and people."""
    return (json.dumps(statement, indent=2, ensure_ascii=False) + "\n").encode()
