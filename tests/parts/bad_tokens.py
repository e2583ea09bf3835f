"""More than a thousand tokens that must not open anything, each with the reason it has to be refused for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.parts import bad_tokens_claims, bad_tokens_signatures, bad_tokens_text
from tests.parts.token_corpus import Corpus


@dataclass(frozen=True, slots=True)
class BadToken:
    """``reason`` is the slug of the refusal, or several with ``|`` where the first check to see it may be either."""

    name: str
    token: str
    reason: str

    @property
    def expired(self) -> bool:
        """Good in everything but its time: the one that is told apart from the others."""
        return self.reason == "expired"


def bad_tokens(corpus: Corpus) -> Iterator[BadToken]:
    """The tokens, to be verified against ``corpus.jwks`` with ``ALGORITHMS`` and the bounds beside it."""
    for part in (bad_tokens_text, bad_tokens_claims, bad_tokens_signatures):
        for group, flaws in part.GROUPS.items():
            for name, token, reason in flaws(corpus):
                yield BadToken(f"{group}: {name}", token, reason)
