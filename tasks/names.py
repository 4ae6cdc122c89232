"""The stages that run once for each name of a section of params.yaml, and the data sets that stages write.

Nothing heavy is imported.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from agentrefine.errors import UserError, unknown_name
from agentrefine.params import Params

DATA_SETS = re.compile(r"data/(?:dataset|(?:mix|on_policy)/[^/]+)/?")
"""The data sets that stages write; any other one has to be there."""


class Named(NamedTuple):
    """What a stage takes a name of.

    Attributes:
        kind: what the name is of.
        key: where in params.yaml the names stand.
        names: those that params.yaml has.
        document: shows how to add one; empty where there is no other.
    """

    kind: str
    key: str
    names: Callable[[Params], Iterable[str]]
    document: str = ""


NAMED = {
    "mix": Named("mix", "mix", lambda params: params.mix, "docs/tuning.md"),
    "on_policy": Named("data set", "on_policy", lambda params: params.on_policy, "docs/on-policy.md"),
    "tuning": Named("variant", "tuning.variants", lambda params: params.tuning.variants, "docs/tuning.md"),
    "evaluation": Named("model", "evaluation", lambda params: params.evaluation.players, "docs/teacher.md"),
    "reference_evaluation": Named("model", "evaluation.references", lambda params: params.evaluation.references),
    "endpoint_evaluation": Named(
        "model", "evaluation.endpoints", lambda params: params.evaluation.endpoints, "docs/teacher.md"
    ),
}
"""The stages with a name: `tuning@refinement` in dvc.yaml. The last three are one flow."""


def check_name(stage: str, name: str | None, params: Params) -> None:
    """Refuse a name that params.yaml does not have for a stage of `NAMED`; where none is given, list those that it has.

    Raises:
        UserError: one sentence with the names.
    """
    kind, key, names, document = NAMED[stage]
    known = list(names(params))
    place = f"params.yaml, {key}"
    if name is None:
        listed = f"there are {', '.join(known)}" if known else "there is none yet"
        message = f"stage {stage}: name the {kind} too; in {place}, {listed}."
        raise UserError("wrong_arguments", message, stage=stage, key=key, known=known)
    if name not in known:
        unknown = unknown_name(place, kind, name, known, key=key)
        if unknown.values["meant"] is None and document:
            message = f"{str(unknown).removesuffix('.')}; {document} shows how to add one."
            raise UserError(unknown.code, message, **unknown.values)
        raise unknown
