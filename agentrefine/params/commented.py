"""All parameters with their values and comments, as YAML for a reader."""

from typing import Any

import yaml

from agentrefine.params import Params
from agentrefine.params.base import Section

COMMENT_COLUMN = 27
"""Where comments begin, in characters from the left; further right behind a long value."""


def commented(params: Params) -> str:
    """Every parameter as YAML, each with its comment."""
    return "\n".join(_lines(params, ""))


def _lines(section: Section, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        head, comment, body = f"{indent}{name}:", field.description, []
        if isinstance(value, Section) and any(inner.description for inner in type(value).model_fields.values()):
            body = _lines(value, f"{indent}  ")
            comment = comment or (type(value).__doc__ or "").splitlines()[0]
        elif isinstance(value, dict) and value:
            body = [f"{indent}  {key}: {_inline(item)}" for key, item in value.items()]
        else:
            head += f" {_inline(value)}"
        before = [""] if body and not indent else []
        lines += [*before, f"{head:<{COMMENT_COLUMN}}  # {comment}" if comment else head, *body]
    return lines


def _inline(value: Any) -> str:  # noqa: ANN401 (any value of a parameter)
    plain = value.model_dump(mode="json") if isinstance(value, Section) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()
