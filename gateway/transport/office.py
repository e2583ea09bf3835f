"""Where statements are asked for, as the edges see it."""

from __future__ import annotations

from typing import Any, Protocol


class Statements(Protocol):
    """Whoever has the statements."""

    async def page(
        self, *, tenant: str | None, limit: int, before: int | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Statements without their usage rows, the newest first, and where the next page goes on."""
        ...

    async def document(self, reference: str, *, tenant: str | None, form: str) -> bytes:
        """One statement by number or id. Raises NotFound for one that is another tenant's, too."""
        ...
