"""What is wrong with a deployment: the operator's error, never a partner's."""

from __future__ import annotations


class ConfigurationProblems(Exception):
    """Everything wrong with settings, contracts or catalog, found in one go; the operator's error, exit code 2.

    ``problems`` are complete lines: where (file:line or setting), the value, what is allowed, the nearest valid name.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
