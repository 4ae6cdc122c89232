"""The language of worlds: clauses and sentences, action templates, and paraphrases of the actions."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from agentrefine.game.actions import PLACEHOLDER

HOLE = re.compile(r"\{\w+\}|\$\w+")
"""Where a template names something, such as `{name}`."""
ANY_NAME = r"\w+(?: \w+){0,2}?"
"""The regular expression of what may stand for a name: one to three words."""
_FIRST_PERSON = {"you are": "I am", "you": "I", "your": "my"}
_SECOND_PERSON = re.compile(r"\b(?:you are|you|your)\b")


def capitalised(clause: str) -> str:
    """The clause with a capital letter first."""
    return clause[:1].upper() + clause[1:]


def sentence(clause: str) -> str:
    """A clause as a sentence: `the cup is here` becomes `The cup is here.`"""
    return f"{capitalised(clause)}."


def enumeration(entries: Sequence[str], last: str = " and ") -> str:
    """One or more texts as `the cup, the map and the pen`; `last` joins the last two."""
    *before, end = entries
    return f"{', '.join(before)}{last}{end}" if before else end


def first_person(clause: str) -> str:
    """A clause about the player (`you are in the barn`) as the player says it (`I am in the barn`)."""
    return _SECOND_PERSON.sub(lambda found: _FIRST_PERSON[found.group()], clause)


def names_in(text: str, names: Collection[str]) -> list[str]:
    """Those of `names` that a text holds as whole words, in the order of the text."""
    return list(dict.fromkeys(_any_of(frozenset(names)).findall(text))) if names else []


@lru_cache(maxsize=4096)
def _any_of(names: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


def parameters(template: str) -> tuple[str, ...]:
    """The placeholders of a template, in order."""
    return tuple(PLACEHOLDER.findall(template))


def template_regex(template: str, value: str = r"\w+(?: \w+)*") -> str:
    r"""The regular expression of a template's actions, such as `^open (\w+(?: \w+)*)$`; it runs in linear time.

    `value` is the regular expression of what a placeholder stands for.
    """
    parts = PLACEHOLDER.split(template)
    patterns = (f"({value})" if i % 2 else re.escape(part).replace(r"\ ", " ") for i, part in enumerate(parts))
    return f"^{''.join(patterns)}$"


@cache
def template_pattern(template: str, value: str) -> re.Pattern[str]:
    """The compiled regular expression of a template's actions, in which `value` matches a placeholder's value."""
    return re.compile(template_regex(template, value), re.ASCII)


class Paraphrase(NamedTuple):
    """Another form of every action (paper, robustness study: the benchmark's actions rephrased in five ways).

    Actions are parsed with one set of templates and rendered with the other, so that nothing is lost either way.
    Instructions follow the paraphrase; goals and observations name no action template and stay as they are.

    Attributes:
        name: the paraphrase's name.
        templates: for each canonical template, the one that stands for it.
        value: the regular expression of what a placeholder stands for.
        repeated: whether observations and thoughts repeat actions as they are written; worlds speak in sentences.
    """

    name: str
    templates: Mapping[str, str]
    value: str = ANY_NAME
    repeated: bool = True

    def render(self, action: str) -> str:
        """A canonical action in this paraphrase; as it is where it matches no template."""
        return self._translate(action, self.templates.items()) or action

    def parse(self, action: str) -> str | None:
        """An action of this paraphrase in canonical form; None if it is none."""
        return self._translate(action.strip(), ((own, canonical) for canonical, own in self.templates.items()))

    def repeat(self, text: str, action: str) -> str:
        """A text in which a canonical action is in this paraphrase, wherever it stands, with articles or without.

        Where texts do not repeat actions, the text as it is.
        """
        if not self.repeated:
            return text
        repeated = " (?:the )?".join(map(re.escape, action.split(" ")))
        return re.sub(rf"(?<!\w){repeated}(?!\w)", lambda _: self.render(action), text)

    def paraphrase_actions(self, actions: Mapping[str, str]) -> dict[str, str]:
        """Canonical templates with their descriptions, in this paraphrase: what the instructions list."""
        return {self.templates[template]: description for template, description in actions.items()}

    def _translate(self, action: str, templates: Iterable[tuple[str, str]]) -> str | None:
        for source, target in templates:
            found = template_pattern(source, self.value).fullmatch(action)
            if found is not None:
                return target.format(**dict(zip(parameters(source), found.groups(), strict=True)))
        return None
