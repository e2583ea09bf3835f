"""What was measured, beside what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line: ``met`` is None where nothing was promised."""

    name: str
    measured: str
    bar: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return "" if self.met is None else "met" if self.met else "**missed**"


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| measure | measured | bar | verdict |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.measured} | {row.bar} | {row.verdict} |" for row in rows]
    return "\n".join(lines)


def spread(values: Sequence[float], *, digits: int = 2) -> str:
    """The median, and the extremes where there are several."""
    middle = f"{median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
