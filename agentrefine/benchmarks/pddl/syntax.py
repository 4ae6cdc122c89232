"""PDDL as text: read into nested lists, fixed where `unified-planning` is stricter than PDDL, written again.

Published domains name their parts in any order, write names in any case, declare an object both as a constant of the
domain and as an object of the problem, and give a predicate other types than its uses have (AgentBoard's tyreworld does
all of these). The reader of `unified-planning` 1.3 fails on each.
"""

import re
from pathlib import Path
from typing import NamedTuple

from agentrefine.errors import UserError
from agentrefine.files import read_text

Expression = str | list["Expression"]

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 60
"""Parentheses in parentheses; the readers behind this one call themselves for each."""

_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_NOT_PLAYED = {
    ":derived": "a derived predicate",
    ":durative-action": "an action with a duration",
    ":process": "a process",
    ":event": "an event",
    ":constraints": "constraints on the whole plan",
    "preference": "a preference",
    "either": "a choice of types, `(either ...)`",
}
"""What PDDL has and is not played here, by its first word."""

_DOMAIN_ORDER = (":requirements", ":types", ":constants", ":predicates", ":functions")
_PROBLEM_ORDER = (":domain", ":requirements", ":objects", ":init", ":goal")


class Fixed(NamedTuple):
    """The texts of a domain and a problem that `unified-planning` can read, and the domain's own name."""

    domain: str
    problem: str
    name: str


def fixed(domain: Path, problem: Path) -> Fixed:
    """The texts of both files in lower case, with the domain's parts in order and every object declared once.

    Predicates take objects of any type; the types of the actions' parameters stay.

    Raises:
        UserError: a file is missing, is not PDDL of its kind, or has what is not played here; names it.
    """
    head, *sections = _definition(domain, "domain")
    problem_head, *facts = _definition(problem, "problem")
    sections = [_any_type(section) if section[0] == ":predicates" else section for section in sections]
    constants = {name for section in sections if section[0] == ":constants" for name in _declared(section)}
    facts = [_without(section, constants) if section[0] == ":objects" else section for section in facts]
    return Fixed(
        domain=_written(["define", head, *_sorted(sections, _DOMAIN_ORDER)]),
        problem=_written(["define", problem_head, *_sorted(facts, _PROBLEM_ORDER)]),
        name=str(head[1]),
    )


def is_domain(path: Path) -> bool:
    """Whether a PDDL file defines a domain (and not a problem)."""
    return re.search(r"\(\s*domain\s", _COMMENT.sub("", _text(path))[:2000].lower()) is not None


def _definition(path: Path, kind: str) -> list[list[Expression]]:
    """The parts of `(define (<kind> name) part ...)`."""
    expression = _parsed(_text(path), path)
    parts = [part for part in expression[1:] if isinstance(part, list) and part and isinstance(part[0], str)]
    if expression[:1] != ["define"] or len(parts) != len(expression) - 1 or not parts or parts[0][0] != kind:
        raise UserError(
            "not_pddl", f"{path}: expected '(define ({kind} name) ...)'; give a PDDL {kind} file.", file=path, kind=kind
        )
    if len(parts[0]) != 2 or not isinstance(parts[0][1], str):
        raise UserError("missing_name", f"{path}: the {kind} has no name; write '({kind} name)'.", file=path, kind=kind)
    _refuse_what_is_not_played(expression, path)
    for section in parts:
        for name in _declared(section) if section[0] in (":objects", ":constants") else ():
            if not _NAME.fullmatch(name):
                raise UserError(
                    "bad_name",
                    f"{path}: the name {name!r} in {section[0]} has to begin with a letter and continue with letters, "
                    "digits, - and _; rename the object.",
                    file=path,
                    name=name,
                )
    return parts


def _refuse_what_is_not_played(expression: Expression, path: Path) -> None:
    if isinstance(expression, str):
        return
    first = expression[0] if expression else ""
    if isinstance(first, str) and first in _NOT_PLAYED:
        raise UserError(
            "not_played",
            f"{path}: has {_NOT_PLAYED[first]}, which is not played here; write it without.",
            file=path,
            found=_NOT_PLAYED[first],
        )
    for part in expression:
        _refuse_what_is_not_played(part, path)


def _parsed(text: str, path: Path) -> list[Expression]:
    root: list[Expression] = []
    open_lists = [root]
    for token in _TOKEN.findall(_COMMENT.sub("", text).lower()):
        if token == "(":  # noqa: S105  a parenthesis
            inner: list[Expression] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
        elif token != ")":  # noqa: S105
            open_lists[-1].append(token)
        elif len(open_lists) > 1:
            open_lists.pop()
        else:
            raise UserError(
                "unopened_parenthesis", f"{path}: a closing parenthesis has no opening one; fix the file.", file=path
            )
        if len(open_lists) > MAX_DEPTH:
            raise UserError(
                "nested_too_deep",
                f"{path}: more than {MAX_DEPTH} parentheses are open at once; give a smaller definition.",
                file=path,
                limit=MAX_DEPTH,
            )
    if len(open_lists) > 1:
        raise UserError(
            "unclosed_parentheses",
            f"{path}: {len(open_lists) - 1} parentheses are not closed; fix the file.",
            file=path,
            count=len(open_lists) - 1,
        )
    if len(root) != 1 or not isinstance(root[0], list):
        raise UserError(
            "not_pddl", f"{path}: expected one '(define ...)' and nothing else; give a PDDL file.", file=path
        )
    return root[0]


def _text(path: Path) -> str:
    if path.is_file() and path.stat().st_size > MAX_CHARACTERS:
        raise UserError(
            "file_too_large",
            f"{path}: larger than {MAX_CHARACTERS:,} characters; give a smaller PDDL file.",
            file=path,
            limit=MAX_CHARACTERS,
        )
    return read_text(path, "give a PDDL file")


def _sorted(sections: list[list[Expression]], order: tuple[str, ...]) -> list[list[Expression]]:
    """The sections in an order; those that it does not name keep theirs, at the end."""
    return sorted(sections, key=lambda section: order.index(str(section[0])) if section[0] in order else len(order))


def _declared(section: list[Expression]) -> list[str]:
    """The names in a typed list such as `:objects a b - ball c`."""
    names: list[str] = []
    words = section[1:]
    for position, word in enumerate(words):
        if isinstance(word, str) and word != "-" and (position == 0 or words[position - 1] != "-"):
            names.append(word)
    return names


def _without(section: list[Expression], names: set[str]) -> list[Expression]:
    """A typed list without `names` and without what it declares twice."""
    kept: list[Expression] = [section[0]]
    group: list[Expression] = []
    seen = set(names)
    words = iter(section[1:])
    for word in words:
        if word == "-":
            type_ = next(words, "object")
            if group:
                kept += [*group, "-", type_]
            group = []
        elif isinstance(word, str) and word not in seen:
            seen.add(word)
            group.append(word)
    return [*kept, *group]


def _any_type(predicates: list[Expression]) -> list[Expression]:
    """The declarations of predicates without the types of their parameters."""
    return [[*part[:1], *_declared(part)] if isinstance(part, list) else part for part in predicates]


def _written(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    return f"({' '.join(map(_written, expression))})"
