"""Mask policies: which turns of a conversation are trained (paper, section 3.3 and the ablations of section 4).

A policy is a function over messages whose `loss` is True or False, False on a mistake. Another one is a name in
`agentrefine.params.tuning.MaskPolicy` and its function in `POLICIES`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from agentrefine.game.conversation import Message
from agentrefine.params.tuning import MaskPolicy


def apply_mask_policy(messages: Sequence[Message], train_on: MaskPolicy) -> list[Message]:
    """The conversation as the policy `train_on` trains it: every assistant message with `loss` True or False.

    The first assistant message is the acknowledgement of the instructions where its `loss` is False, and never
    trained; where it is not False (general chat, data sets without an acknowledgement) it is a turn like any other.
    Another assistant message is a mistake where its `loss` is False.
    """
    return POLICIES[train_on](
        [m if m.role == "user" else m.model_copy(update={"loss": m.loss is not False}) for m in messages]
    )


def mask_mistakes(messages: list[Message]) -> list[Message]:
    """Mistakes stay in the context and are not trained: the paper's refinement tuning."""
    return messages


def train_everything(messages: list[Message]) -> list[Message]:
    """Mistakes are trained too."""
    return _with_loss(messages, set(_played(messages)), loss=True)


def mask_corrections(messages: list[Message]) -> list[Message]:
    """Neither mistakes nor the turns directly after a mistake are trained."""
    corrections = {after for before, after in pairwise(_played(messages)) if not messages[before].loss}
    return _with_loss(messages, corrections, loss=False)


def cut_mistakes(messages: list[Message]) -> list[Message]:
    """Each mistake is cut out together with the error observation that answers it.

    So the correcting turn answers the observation before the mistake. Its action is right there; its thought may still
    mention the error that is no longer shown (a limit of cutting: rewriting thoughts would be other data).
    """
    mistakes = {index for index in _played(messages) if not messages[index].loss}
    kept: list[Message] = []
    error_follows = False
    for index, message in enumerate(messages):
        if index in mistakes:
            error_follows = True
        elif error_follows:
            error_follows = False
        else:
            kept.append(message)
    while kept and kept[-1].role == "user":
        kept.pop()
    return kept


POLICIES: Mapping[MaskPolicy, Callable[[list[Message]], list[Message]]] = {
    "correct_turns": mask_mistakes,
    "with_erroneous_loss": train_everything,
    "without_refinement_loss": mask_corrections,
    "without_refinement_data": cut_mistakes,
}
"""The policies by their names in params.yaml."""


def _played(messages: Sequence[Message]) -> list[int]:
    """Where the assistant's turns stand, without the acknowledgement."""
    replies = [index for index, m in enumerate(messages) if m.role == "assistant"]
    return replies[1:] if replies and messages[replies[0]].loss is False else replies


def _with_loss(messages: Sequence[Message], indices: set[int], *, loss: bool) -> list[Message]:
    return [m.model_copy(update={"loss": loss}) if index in indices else m for index, m in enumerate(messages)]
