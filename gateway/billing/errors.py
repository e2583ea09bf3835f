"""Refusals that only statements know."""

from __future__ import annotations

from gateway.errors import GatewayError, NotFound


class StatementNotFound(NotFound):
    """No statement of this number or id that the caller may know of."""

    code = "statement_not_found"
    title = "Statement not found"
    action = "Take a number or id from GET /v1/statements."


class StatementConflict(GatewayError):
    """The statement is not in the state that this needs."""

    code = "statement_conflict"
    status = 409
    close_code = 4400
    reconnect = False
    title = "Not in this state"
    action = "Look at the statement's status, and at what the detail says."


class StatementRefused(GatewayError):
    """What was used in that time cannot be made a statement of."""

    code = "statement_refused"
    status = 409
    close_code = 4400
    reconnect = False
    title = "No statement can be made"
    action = "Correct the plans as the detail says, or ask for another stretch of time."
