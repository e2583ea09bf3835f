"""What people type at ``gateway billing``, checked: who does it, texts of lines, amounts, months, forms of files."""

from __future__ import annotations

import getpass
import re
import sys
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.errors import ConfigurationProblems

if TYPE_CHECKING:
    from gateway.statements import Statements

_AMOUNT = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?")
"""As prices are written in a catalog, with a sign."""

_LONGEST_NAME = 128
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
FORMS = ("json", "csv", "html", "pdf")


def who(by: str | None) -> str:
    """Who does it, for the audit log. Raises ConfigurationProblems."""
    return f"cli:{getpass.getuser()}" if by is None else text("--by", by, longest=_LONGEST_NAME)


def text(option: str, given: str, *, longest: int = 2_000) -> str:
    """One line that says something. Raises ConfigurationProblems."""
    if not given.strip() or len(given) > longest or any(unicodedata.category(one) in _UNSEEN for one in given):
        allowed = f"1 to {longest} characters on one line, without control characters"
        raise ConfigurationProblems([f"{option} {given!r}; allowed: {allowed}"])
    return given


def amount(given: str) -> Decimal:
    """A credit (below 0) or debit, written as amounts of a catalog are. Raises ConfigurationProblems."""
    found = Decimal(given) if _AMOUNT.fullmatch(given) else Decimal(0)
    if not found:
        allowed = "a decimal number such as -25.00, not 0, at most 12 digits before and after the point"
        raise ConfigurationProblems([f"--amount {given!r}; allowed: {allowed}"])
    return found


def month(given: str | None) -> str | None:
    """A month. Raises ConfigurationProblems."""
    from gateway.billing.period import Period

    if given is not None:
        try:
            Period.parse(given, zone="UTC")
        except ValueError as error:
            raise ConfigurationProblems([f"--period {error}"]) from None
    return given


def not_over(statements: Statements, period: str, *, tenant: str | None, now: float) -> list[str]:
    """The tenants in whose zones a month is not over. Raises ConfigurationProblems where it is over for nobody."""
    from gateway.billing.period import Period
    from gateway.units import format_rfc3339

    known = statements.drafting.known(tenant=tenant)
    names = {one.name for one in known.catalog.tenants} | known.held.keys() if tenant is None else {tenant}
    ends = {name: Period.parse(period, zone=known.zone(name)).end for name in sorted(names)}
    ends = ends or {"": Period.parse(period, zone="UTC").end}
    running = [name for name, end in ends.items() if end > now]
    if len(running) == len(ends):
        until = format_rfc3339(min(ends.values()) * 1000)
        raise ConfigurationProblems([f"--period {period} is not over: it ends at {until}; nothing was closed"])
    return running


def check_tenant(statements: Statements, tenant: str | None) -> None:
    """Raises ConfigurationProblems for a name that neither catalog, history nor ledger has."""
    if tenant is None:
        return
    catalog = statements.drafting.catalog()
    if catalog.tenant(tenant) is not None or statements.store.has_heard_of(tenant):
        return
    if tenant not in statements.ledger.tenants():
        names = ", ".join(one.name for one in catalog.tenants) or "none"
        raise ConfigurationProblems([f"--tenant {tenant!r}: there is no such tenant; known: {names}"])


def form_of(output: str | None, file: Path | None) -> str:
    """In which form a statement is written: the one that is named, else what the file's name ends in, else a table.
    Raises UsageError."""
    if output is None and file is not None:
        output = file.suffix.lower().removeprefix(".")
        if output not in FORMS:
            raise click.UsageError(
                "--output needs a name that ends in .json, .csv, .html or .pdf, or a --format of these"
            )
    output = output or "table"
    if output == "table" and file is not None:
        raise click.UsageError("--output needs a --format of json, csv, html or pdf")
    if output == "pdf" and file is None and sys.stdout.isatty():
        raise click.UsageError("--format pdf is not for a terminal: --output FILE, or a pipe")
    return output
