"""PromQL as far as dashboards and alerts use it: parsed, and checked against the metrics there are.

No Prometheus is needed to find a misspelt metric, a label that does not exist, or a rate of something that goes down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"\s*(?:(?P<duration>\d+(?:ms|[smhdwy]))|(?P<number>\d+(?:\.\d+)?)|(?P<string>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){}\[\],]))"
)
_PRECEDENCE = ({"or"}, {"and", "unless"}, {"==", "!=", ">", "<", ">=", "<="}, {"+", "-"}, {"*", "/", "%"})
AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk", "bottomk"}
OF_COUNTERS = {"rate", "irate", "increase"}
OF_GAUGES = {"delta", "deriv", "avg_over_time", "max_over_time", "min_over_time"}
OTHERS = {"histogram_quantile", "vector", "absent", "clamp_max"}
TARGET_LABELS = {"instance", "job"}
"""What Prometheus itself adds to every sample."""


class Wrong(Exception):
    """Not PromQL, or not about metrics that exist."""


@dataclass(frozen=True)
class Metric:
    """What is known of a metric. ``kind`` is counter or gauge; the parts of a histogram are counters."""

    kind: str
    labels: frozenset[str]


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[tuple[str, str, str], ...]
    range: str | None = None


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple[Node, ...]
    by: frozenset[str] | None = None


@dataclass(frozen=True)
class Binary:
    operator: str
    left: Node
    right: Node
    on: frozenset[str] = field(default_factory=frozenset)


Node = Selector | Call | Binary | float | str


def parse(text: str) -> Node:
    """The expression; raises Wrong."""
    parser = _Parser(list(_tokens(text)))
    node = parser.expression(0)
    if parser.peek() is not None:
        raise Wrong(f"{parser.peek()!r} is left over in {text!r}")
    return node


def check(node: Node, known: Mapping[str, Metric]) -> frozenset[str]:
    """The labels of the result; raises Wrong where a metric, label or function does not fit."""
    if isinstance(node, float | str):
        return frozenset()
    if isinstance(node, Selector):
        return _check_selector(node, known)
    if isinstance(node, Call):
        return _check_call(node, known)
    left, right = check(node.left, known), check(node.right, known)
    if node.on - left or node.on - right:
        raise Wrong(f"{set(node.on)} is not on both sides of {node.operator}")
    vectors = [labels for side, labels in ((node.left, left), (node.right, right)) if not isinstance(side, float)]
    if len(vectors) == 2 and not node.on and left != right:
        raise Wrong(f"{set(left)} and {set(right)} never match in {node.operator}")
    return left if not isinstance(node.left, float) else right


def selectors(node: Node) -> Iterator[Selector]:
    """Every metric that an expression looks at."""
    if isinstance(node, Selector):
        yield node
    elif isinstance(node, Call):
        for one in node.arguments:
            yield from selectors(one)
    elif isinstance(node, Binary):
        yield from selectors(node.left)
        yield from selectors(node.right)


def _check_selector(node: Selector, known: Mapping[str, Metric]) -> frozenset[str]:
    metric = known.get(node.name)
    if metric is None:
        raise Wrong(f"there is no metric {node.name}")
    labels = metric.labels | TARGET_LABELS
    unknown = {name for name, _, _ in node.matchers} - labels
    if unknown:
        raise Wrong(f"{node.name} has no label {', '.join(sorted(unknown))}")
    return labels


def _check_call(node: Call, known: Mapping[str, Metric]) -> frozenset[str]:
    if node.function in AGGREGATIONS:
        inside = check(node.arguments[-1], known)
        by = node.by or frozenset()
        if by - inside:
            raise Wrong(f"{node.function} by {', '.join(sorted(by - inside))}, which {set(inside)} does not hold")
        return by
    if node.function in OF_COUNTERS | OF_GAUGES:
        (selector,) = node.arguments
        if not isinstance(selector, Selector) or selector.range is None:
            raise Wrong(f"{node.function} wants a range of a metric")
        labels = _check_selector(selector, known)
        if (known[selector.name].kind == "counter") != (node.function in OF_COUNTERS):
            raise Wrong(f"{node.function} of the {known[selector.name].kind} {selector.name}")
        return labels
    if node.function == "histogram_quantile":
        share, buckets = node.arguments
        labels = check(buckets, known)
        if not isinstance(share, float) or not 0 <= share <= 1 or "le" not in labels:
            raise Wrong("histogram_quantile wants a share and buckets by le")
        return labels - {"le"}
    if node.function not in OTHERS:
        raise Wrong(f"unknown function {node.function}")
    return check(node.arguments[0], known)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise Wrong(f"not understood: {text[at:]!r}")
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def take(self, wanted: str | None = None, *, kind: str | None = None) -> str:
        if self._at >= len(self._tokens):
            raise Wrong(f"it ends where {wanted or kind} should be")
        found_kind, text = self._tokens[self._at]
        if (wanted is not None and text != wanted) or (kind is not None and found_kind != kind):
            raise Wrong(f"{text!r} where {wanted or kind} should be")
        self._at += 1
        return text

    def expression(self, level: int) -> Node:
        if level == len(_PRECEDENCE):
            return self.operand()
        node = self.expression(level + 1)
        while self.peek() in _PRECEDENCE[level]:
            operator = self.take()
            on: frozenset[str] = frozenset()
            if self.peek() == "on":
                self.take()
                on = self.names()
            node = Binary(operator, node, self.expression(level + 1), on)
        return node

    def operand(self) -> Node:
        if self.peek() == "(":
            self.take()
            node = self.expression(0)
            self.take(")")
            return node
        kind = self._tokens[self._at][0] if self._at < len(self._tokens) else "end"
        if kind == "number":
            return float(self.take())
        if kind == "string":
            return self.take()
        name = self.take(kind="name")
        by = None
        if name in AGGREGATIONS and self.peek() == "by":
            self.take()
            by = self.names()
        if self.peek() == "(":
            return Call(name, self.arguments(), by)
        return self.selector(name)

    def arguments(self) -> tuple[Node, ...]:
        self.take("(")
        found = [self.expression(0)]
        while self.peek() == ",":
            self.take()
            found.append(self.expression(0))
        self.take(")")
        return tuple(found)

    def selector(self, name: str) -> Selector:
        matchers: list[tuple[str, str, str]] = []
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                label, operator = self.take(kind="name"), self.take(kind="sign")
                if operator not in ("=", "!=", "=~", "!~"):
                    raise Wrong(f"{operator!r} is no matcher")
                matchers.append((label, operator, self.take(kind="string")[1:-1]))
                if self.peek() == ",":
                    self.take()
            self.take("}")
        length = None
        if self.peek() == "[":
            self.take()
            length = self.take(kind="duration")
            self.take("]")
        if self.peek() == "offset":
            self.take()
            self.take(kind="duration")
        return Selector(name, tuple(matchers), length)

    def names(self) -> frozenset[str]:
        self.take("(")
        found = {self.take(kind="name")}
        while self.peek() == ",":
            self.take()
            found.add(self.take(kind="name"))
        self.take(")")
        return frozenset(found)
