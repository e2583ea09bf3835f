"""Where the demo's contracts and records lie, in a checkout and in an installed wheel."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Recording:
    """Records of one stream in a file of JSON lines; ``key`` is the top-level member that becomes Kafka's key."""

    stream: str
    path: Path
    key: str


RECORDINGS = (
    Recording("earthquakes", _HERE / "data" / "earthquakes.ndjson.gz", "id"),
    Recording("flights", _HERE / "data" / "flights.ndjson.gz", "origin"),
)


def contracts_directory() -> Path:
    """The example contracts and catalog: a wheel brings a copy beside this module, a checkout has them at its top."""
    packaged = _HERE / "asyncapi"
    return packaged if packaged.is_dir() else _HERE.parents[1] / "asyncapi"


def read_records(path: Path, *, key: str) -> list[tuple[bytes, bytes]]:
    """Key and value of each record, the value's bytes as they stand in the file."""
    with gzip.open(path, "rb") as file:
        lines = file.read().splitlines()
    return [(str(json.loads(line)[key]).encode("utf-8"), line) for line in lines]
