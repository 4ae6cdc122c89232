"""The four losses (paper, section 3.3 and the ablations of section 4) as choices of what a conversation trains."""

from collections.abc import Sequence
from itertools import pairwise

from agentrefine.conversation import Message
from agentrefine.params.tuning import Loss


def apply_loss(messages: Sequence[Message], loss: Loss) -> list[Message]:
    """The conversation as `loss` trains it: every assistant message with `loss` true or false.

    An assistant message is a mistake where its `loss` is False. The first assistant message is the acknowledgement of
    the instructions and is never trained.

    - `refinement`: mistakes stay in the context and are not trained.
    - `with_erroneous_loss`: mistakes are trained too.
    - `without_refinement_loss`: neither mistakes nor the turns directly after a mistake are trained.
    - `without_refinement_data`: each mistake is cut out together with the error observation that answers it, so the
      correcting turn answers the observation before the mistake. Its action is right there; its thought may still
      mention the error that is no longer shown (a limit of cutting: rewriting thoughts would be other data).
    """
    if loss == "without_refinement_data":
        return _without_mistakes(_with_flags(messages))
    flagged = _with_flags(messages)
    if loss == "with_erroneous_loss":
        return _train_all(flagged)
    if loss == "without_refinement_loss":
        return _without_corrections(flagged)
    return flagged


def _with_flags(messages: Sequence[Message]) -> list[Message]:
    """Every assistant message with a boolean `loss` (None counts as true); the acknowledgement with False."""
    first = _acknowledgement(messages)
    return [
        m if m.role == "user" else m.model_copy(update={"loss": index != first and m.loss is not False})
        for index, m in enumerate(messages)
    ]


def _acknowledgement(messages: Sequence[Message]) -> int:
    return next((index for index, m in enumerate(messages) if m.role == "assistant"), -1)


def _train_all(messages: list[Message]) -> list[Message]:
    first = _acknowledgement(messages)
    return [
        m if m.role == "user" or index == first else m.model_copy(update={"loss": True})
        for index, m in enumerate(messages)
    ]


def _without_corrections(messages: list[Message]) -> list[Message]:
    played = [index for index, m in enumerate(messages) if m.role == "assistant"][1:]
    corrections = {after for before, after in pairwise(played) if not messages[before].loss}
    return [m.model_copy(update={"loss": False}) if index in corrections else m for index, m in enumerate(messages)]


def _without_mistakes(messages: list[Message]) -> list[Message]:
    first = _acknowledgement(messages)
    kept: list[Message] = []
    error_follows = False
    for index, message in enumerate(messages):
        if message.role == "assistant" and index != first and not message.loss:
            error_follows = True
        elif error_follows:
            error_follows = False
        else:
            kept.append(message)
    while kept and kept[-1].role == "user":
        kept.pop()
    return kept
