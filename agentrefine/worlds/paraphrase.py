"""Paraphrases of the actions (paper, robustness study: the benchmark's actions rephrased in five ways).

A paraphrase gives every action template another form. Actions are parsed with one set of templates and rendered with
the other, so that nothing is lost either way. Instructions follow the paraphrase; goals and observations name no action
template and stay as they are.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from agentrefine.worlds import catalogue
from agentrefine.worlds.family import ANY_NAME, parameters, template_regex

PARAPHRASES: tuple[str, ...] = tuple(catalogue.paraphrase_templates())
"""The names of the paraphrases of our worlds."""


class Paraphrase(NamedTuple):
    """One paraphrase of actions.

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
        """A text in which a canonical action is in this paraphrase, wherever it stands, be it with articles.

        Where texts do not repeat actions, the text as it is.
        """
        if not self.repeated:
            return text
        repeated = " (?:the )?".join(map(re.escape, action.split(" ")))
        return re.sub(rf"(?<!\w){repeated}(?!\w)", lambda _: self.render(action), text)

    def reword(self, actions: Mapping[str, str]) -> dict[str, str]:
        """Canonical templates with their descriptions, in this paraphrase: what the instructions list."""
        return {self.templates[template]: description for template, description in actions.items()}

    def _translate(self, action: str, templates: Iterable[tuple[str, str]]) -> str | None:
        for source, target in templates:
            found = _pattern(source, self.value).fullmatch(action)
            if found is not None:
                return target.format(**dict(zip(parameters(source), found.groups(), strict=True)))
        return None


@cache
def paraphrase(name: str) -> Paraphrase:
    """The paraphrase of a name, for the actions of all families. Raises KeyError if there is none."""
    return Paraphrase(name, catalogue.paraphrase_templates()[name], catalogue.name_regex(), repeated=False)


@cache
def _pattern(template: str, value: str) -> re.Pattern[str]:
    return re.compile(template_regex(template, value), re.ASCII)
