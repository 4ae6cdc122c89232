"""PDDL as text: read into nested lists, fixed where `unified-planning` is stricter than PDDL, written again.

Published domains name their parts in any order, write names in any case, declare an object both as a constant of the
domain and as an object of the problem, and give a predicate other types than its uses have (AgentBoard's tyreworld does
all of these). The reader of `unified-planning` 1.3 fails on each.
"""

import re
from itertools import pairwise
from pathlib import Path

from agentrefine.errors import file_error
from agentrefine.files import read_text

Expression = str | list["Expression"]

MAX_CHARACTERS = 1_000_000
"""The most characters of a PDDL file, each a byte."""
MAX_DEPTH = 60
"""The most parentheses that are open at once; the readers behind this one call themselves for each."""

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


def fixed(domain: Path, problem: Path) -> tuple[str, str, str]:
    """The domain's own name, and the texts of both files as `unified-planning` can read them.

    They are in lower case, with the domain's parts in order and every object declared once.
    Predicates take objects of any type; the types of the actions' parameters stay.

    Raises:
        UserError: a file is missing, is not PDDL of its kind, or has what is not played here; names it.
    """
    head, *sections = _definition(domain, "domain")
    problem_head, *facts = _definition(problem, "problem")
    sections = [_any_type(section) if section[0] == ":predicates" else section for section in sections]
    constants = {name for section in sections if section[0] == ":constants" for name in _declared(section)}
    facts = [_without(section, constants) if section[0] == ":objects" else section for section in facts]
    domain_text = _written(["define", head, *_sorted(sections, _DOMAIN_ORDER)])
    problem_text = _written(["define", problem_head, *_sorted(facts, _PROBLEM_ORDER)])
    return str(head[1]), domain_text, problem_text


def is_domain(path: Path) -> bool:
    """Whether a PDDL file defines a domain (and not a problem)."""
    return re.search(r"\(\s*domain\s", _COMMENT.sub("", _text(path))[:2000].lower()) is not None


def _definition(path: Path, kind: str) -> list[list[Expression]]:
    """The parts of `(define (<kind> name) part ...)`."""
    expression = _parsed(_text(path), path)
    parts = [part for part in expression[1:] if isinstance(part, list) and part and isinstance(part[0], str)]
    if expression[:1] != ["define"] or len(parts) != len(expression) - 1 or not parts or parts[0][0] != kind:
        message = f"expected '(define ({kind} name) ...)'; give a PDDL {kind} file."
        raise file_error("not_pddl", path, message, kind=kind)
    if len(parts[0]) != 2 or not isinstance(parts[0][1], str):
        raise file_error("missing_name", path, f"the {kind} has no name; write '({kind} name)'.", kind=kind)
    _refuse_what_is_not_played(expression, path)
    for section in parts:
        for name in _declared(section) if section[0] in (":objects", ":constants") else ():
            if not _NAME.fullmatch(name):
                message = (
                    f"the name {name!r} in {section[0]} has to begin with a letter and continue with letters, "
                    "digits, - and _; rename the object."
                )
                raise file_error("bad_name", path, message, name=name)
    return parts


def _refuse_what_is_not_played(expression: list[Expression], path: Path) -> None:
    first = expression[0] if expression else ""
    if isinstance(first, str) and first in _NOT_PLAYED:
        found = _NOT_PLAYED[first]
        raise file_error("not_played", path, f"has {found}, which is not played here; write it without.", found=found)
    for part in expression:
        if isinstance(part, list):
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
            message = "a closing parenthesis has no opening one; fix the file."
            raise file_error("unopened_parenthesis", path, message)
        if len(open_lists) > MAX_DEPTH:
            message = f"more than {MAX_DEPTH} parentheses are open at once; give a smaller definition."
            raise file_error("nested_too_deep", path, message, limit=MAX_DEPTH)
    unclosed = len(open_lists) - 1
    if unclosed:
        message = f"{unclosed} parentheses are not closed; fix the file."
        raise file_error("unclosed_parentheses", path, message, count=unclosed)
    if len(root) != 1 or not isinstance(root[0], list):
        raise file_error("not_pddl", path, "expected one '(define ...)' and nothing else; give a PDDL file.")
    return root[0]


def _text(path: Path) -> str:
    if path.is_file() and path.stat().st_size > MAX_CHARACTERS:
        message = f"larger than {MAX_CHARACTERS:,} characters; give a smaller PDDL file."
        raise file_error("file_too_large", path, message, limit=MAX_CHARACTERS)
    return read_text(path, "give a PDDL file")


def _sorted(sections: list[list[Expression]], order: tuple[str, ...]) -> list[list[Expression]]:
    """The sections in an order; those that it does not name keep theirs, at the end."""
    return sorted(sections, key=lambda section: order.index(str(section[0])) if section[0] in order else len(order))


def _declared(section: list[Expression]) -> list[str]:
    """The names in a typed list such as `:objects a b - ball c`."""
    return [word for before, word in pairwise(section) if isinstance(word, str) and "-" not in (before, word)]


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
    return expression if isinstance(expression, str) else f"({' '.join(map(_written, expression))})"
