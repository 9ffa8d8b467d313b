"""The per-identity policy: one line that says, by the number of an identity's images, what becomes of them.

Grammar::

    policy     = rule { "|" rule }
    rule       = [ "n" comparison integer ":" ] action { "," operation }
    comparison = ">" | ">=" | "<" | "<="
    action     = "keep" | "sample" "(" integer ")" | "drop"
    operation  = name [ "(" [ argument { "," argument } ] ")" ]
    argument   = [ name "=" ] literal

``n`` is the number of the identity's images, over all sources. The first rule that matches decides. An operation adds
one changed copy (a variant) of every image that the rule keeps. Arguments are read as literals, never evaluated.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.operations import OPERATIONS, Operation, Variant

DEFAULT = (
    "n > 350: sample(350) | n > 200: keep | n > 90: keep, opening | "
    "n > 30: keep, opening, gaussian_noise, salt_pepper | drop"
)
ACTIONS = ("keep", "sample", "drop")

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<string>'[^']*'|"[^"]*")
      | (?P<comparison><=|>=|<|>)
      | (?P<mark>[|:,()=])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Rule:
    """One rule, and the band of counts that is left to it by the rules before it.

    Attributes:
        condition: Canonical text, ``n > 90`` or ``n < 31``; empty where the rule takes whatever is left.
        low: Smallest count that this rule decides.
        high: Largest count that this rule decides; None without an upper end.
        action: ``keep``, ``sample`` or ``drop``.
        sample: How many images ``sample`` keeps; None for the other actions.
        variants: The copies made of every kept image.
    """

    condition: str
    low: int
    high: int | None
    action: str
    sample: int | None = None
    variants: tuple[Variant, ...] = ()

    def matches(self, images: int) -> bool:
        """Whether this rule decides an identity with so many images."""
        return self.low <= images and (self.high is None or images <= self.high)

    def kept(self, images: int) -> int:
        """How many of an identity's images go on."""
        if self.action == "drop":
            return 0
        return images if self.sample is None else min(images, self.sample)

    def images_out(self, images: int) -> int:
        """How many images come out of an identity, variants counted in."""
        return self.kept(images) * (1 + len(self.variants))

    @property
    def band(self) -> str:
        """The counts that this rule decides: ``31-90``, ``351+``."""
        if self.high is None:
            return f"{self.low:,}+"
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"

    @property
    def actions(self) -> str:
        """Canonical text of what the rule does."""
        first = f"sample({self.sample})" if self.action == "sample" else self.action
        return ", ".join([first, *(variant.name for variant in self.variants)])

    def __str__(self) -> str:
        """Canonical text."""
        return f"{self.condition}: {self.actions}" if self.condition else self.actions


@dataclass(frozen=True)
class Policy:
    """A checked policy: exactly one rule decides any count.

    Attributes:
        rules: In the order in which they are tried.
    """

    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read and check a policy.

        Raises:
            SettingsError: The text is no policy, an operation or an argument is not known or not allowed, a rule can
                never match, or some count is matched by no rule. The message shows the place and the remedy.
        """
        return _Parser(text).policy()

    def decide(self, images: int) -> int:
        """Index of the rule that decides an identity with so many images (at least 1)."""
        for index, rule in enumerate(self.rules):
            if rule.matches(images):
                return index
        raise ValueError(f"an identity has at least one image, not {images}")

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every variant that some rule makes, each once, in the order of the rules."""
        return tuple(dict.fromkeys(variant for rule in self.rules for variant in rule.variants))

    def __str__(self) -> str:
        """Canonical text: the same for every spelling of the same rules."""
        return " | ".join(str(rule) for rule in self.rules)


@lru_cache(maxsize=8)
def parsed(text: str) -> Policy:
    """:meth:`Policy.parse`, remembered: workers get the policy as text with every shard."""
    return Policy.parse(text)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int


class _Parser:
    """Recursive descent over the grammar above."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan())
        self._next = 0
        self._low, self._high = 1, None  # type: int, int | None  # counts that no rule has matched yet
        self._open = True

    def policy(self) -> Policy:
        rules = [self._rule()]
        while self._peek().text == "|":
            self._take()
            rules.append(self._rule())
        if self._peek().kind != "end":
            raise self._error(self._peek(), f"unexpected {self._peek().text!r}", "separate rules with '|'")
        if self._open:
            left = f"n > {self._low - 1}" if self._high is None else f"n < {self._high + 1}"
            if self._high is not None and self._low > 1:
                left = f"{self._low - 1} < n < {self._high + 1}"
            raise self._error(
                self._peek(), f"no rule matches {left}", "end with a rule that has no condition, such as '| drop'"
            )
        return Policy(tuple(rules))

    def _rule(self) -> Rule:
        start = self._peek()
        comparison, threshold = "", 0
        if start.text == "n":
            comparison, threshold = self._condition()
        low, high = self._band(start, comparison, threshold)
        first = self._take()
        if first.text not in ACTIONS:
            raise self._error(
                first,
                f"a rule cannot begin with {first.text!r}" if first.text else "a rule is missing",
                "write an optional condition such as 'n > 90:', then keep, sample(COUNT) or drop, then operations",
            )
        sample = self._sample() if first.text == "sample" else None
        variants: list[Variant] = []
        while self._peek().text == ",":
            self._take()
            token = self._peek()
            variant = self._variant()
            if first.text == "drop":
                raise self._error(token, f"'drop' leaves no image for {token.text!r}", "remove one of the two")
            if variant in variants:
                raise self._error(
                    token, f"{variant.name!r} stands twice in one rule", "remove one, or vary an argument"
                )
            variants.append(variant)
        condition = f"n {comparison} {threshold}" if comparison else ""
        return Rule(condition, low, high, first.text, sample, tuple(variants))

    def _condition(self) -> tuple[str, int]:
        self._take()
        comparison = self._take()
        if comparison.kind != "comparison":
            raise self._error(comparison, "'n' needs a comparison", "write a condition such as 'n > 90:'")
        threshold = self._whole_number("a condition compares n with a whole number", "'n > 90:'")
        self._expect(":", "a condition ends with ':'", "write 'n > 90: keep'")
        # Over whole numbers two of the four comparisons are enough, and give one spelling to each condition.
        if comparison.text == ">=":
            return ">", threshold - 1
        if comparison.text == "<=":
            return "<", threshold + 1
        return comparison.text, threshold

    def _band(self, start: _Token, comparison: str, threshold: int) -> tuple[int, int | None]:
        """Take the counts that a condition matches away from those that are left; they are always one interval."""
        low, high = self._low, self._high
        if comparison == ">":
            low = max(low, threshold + 1)
            self._high = threshold if self._high is None else min(self._high, threshold)
        elif comparison == "<":
            high = threshold - 1 if high is None else min(high, threshold - 1)
            self._low = max(self._low, threshold)
        if not self._open or (high is not None and low > high):
            raise self._error(
                start,
                "this rule can never match: the first rule that matches decides, "
                "and every n from 1 that it asks for is taken before",
                "remove it, or put it before the rule that takes its counts",
            )
        if not comparison or (self._high is not None and self._low > self._high):
            self._open = False
        return low, high

    def _sample(self) -> int:
        self._expect("(", "'sample' needs a count", "write 'sample(350)'")
        token = self._peek()
        count = self._whole_number("'sample' needs a whole number", "'sample(350)'")
        if count < 1:
            raise self._error(token, f"cannot sample {count} images", "give a count of at least 1, or write 'drop'")
        self._expect(")", "the bracket of 'sample' is not closed", "write 'sample(350)'")
        return count

    def _variant(self) -> Variant:
        token = self._take()
        found = OPERATIONS.get(token.text)
        if found is None:
            near = difflib.get_close_matches(token.text, OPERATIONS, n=1)
            known = ", ".join(sorted(OPERATIONS))
            remedy = f"did you mean {near[0]!r}? Known: {known}" if near else f"use one of {known}"
            if token.text in ACTIONS:
                remedy = f"{token.text!r} can only stand first in a rule; after it come operations: {known}"
            raise self._error(
                token, f"{token.text!r} is not an operation" if token.text else "operation missing", remedy
            )
        values: dict[str, int | float] = {}
        if self._peek().text == "(":
            self._take()
            if self._peek().text != ")":
                self._argument(found, values)
                while self._peek().text == ",":
                    self._take()
                    self._argument(found, values)
            self._expect(")", f"the bracket of {found.name!r} is not closed", f"write {found.usage!r}")
        return Variant(found.name, tuple(values.get(item.name, item.default) for item in found.arguments))

    def _argument(self, found: Operation, values: dict[str, int | float]) -> None:
        token = self._take()
        wanted = {item.name: item for item in found.arguments}
        if token.kind == "name" and self._peek().text == "=":
            self._take()
            name, value = token.text, self._take()
        else:
            free = [item.name for item in found.arguments if item.name not in values]
            name, value = (free[0] if free else ""), token
        if name not in wanted:
            what = f"{found.name!r} has no argument {name!r}" if name else f"too many arguments for {found.name!r}"
            raise self._error(token, what, f"write {found.usage!r}")
        if name in values:
            raise self._error(token, f"argument {name!r} is given twice", f"write {found.usage!r}")
        if value.kind not in ("number", "string", "name"):
            raise self._error(value, f"{name} has no value", f"write {found.usage!r}")
        try:
            literal = ast.literal_eval(value.text) if value.kind != "name" else value.text
            values[name] = wanted[name].check(literal)
        except (ValueError, SyntaxError) as error:
            reason = str(error) if isinstance(error, ValueError) else f"{value.text!r} is not a number"
            raise self._error(value, f"bad argument of {found.name!r}: {reason}", f"write {found.usage!r}") from error

    def _whole_number(self, what: str, example: str) -> int:
        token = self._take()
        if not re.fullmatch(r"[-+]?\d+", token.text):
            raise self._error(token, f"{what}, not {token.text!r}", f"write {example}")
        return int(token.text)

    def _expect(self, text: str, what: str, remedy: str) -> None:
        token = self._take()
        if token.text != text:
            raise self._error(token, what, remedy)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _scan(self) -> Iterator[_Token]:
        position = 0
        end = len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None:
                start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
                raise self._error(
                    _Token("", self._text[start], start),
                    f"unexpected character {self._text[start]!r}",
                    "a policy looks like 'n > 90: keep, opening | drop'",
                )
            kind = match.lastgroup or ""
            yield _Token(kind, match[kind], match.start(kind))
            position = match.end()
        yield _Token("end", "", end)

    def _error(self, token: _Token, what: str, remedy: str) -> SettingsError:
        line = re.sub(r"\s", " ", self._text)
        return SettingsError(
            f"setting 'policy', column {token.start + 1}: {what}; {remedy}.\n  {line}\n  {' ' * token.start}^"
        )
