"""Features of a whole data set: what the quality gate measures of all trajectories together."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from agentrefine.quality.diversity import Diversity
from agentrefine.quality.features import FeatureRow


class DroppedSample(BaseModel):
    """A sample that never became a trajectory, as far as the gate needs it: whose it is, and the rule that it broke."""

    persona_id: str
    rule: str


@dataclass(frozen=True, slots=True)
class DataSetFeatures:
    """Features of the whole data set.

    Attributes:
        trajectories: how many there are.
        personas: how many personas they were written for.
        dropped: samples that never became a trajectory.
        kept_share: trajectories / (trajectories + dropped).
        kept_persona_share: personas / (personas + those of whose samples none became a trajectory).
        unique_id_share: distinct ids / trajectories.
        copy_share, near_duplicate_share: trajectories that repeat an earlier one / trajectories.
        script_near_duplicate_share: trajectories whose script repeats an earlier one / trajectories.
        held_out_overlaps: trajectories that repeat something of the evaluation.
        error_turn_ratio: mistakes / player turns, over all trajectories.
        corrected_share: error-refine turns / mistakes, over all trajectories; 0 without mistakes.
        rarest_error_share: the share of the rarest of the three kinds of error among all mistakes.
        largest_persona_share to common_goal_share: see `Diversity`.
        mean_player_turns, mean_tokens: per trajectory.
    """

    trajectories: int
    personas: int
    dropped: int
    kept_share: float
    kept_persona_share: float
    unique_id_share: float
    copy_share: float
    near_duplicate_share: float
    script_near_duplicate_share: float
    held_out_overlaps: int
    error_turn_ratio: float
    corrected_share: float
    rarest_error_share: float
    largest_persona_share: float
    persona_near_duplicate_share: float
    action_entropy: float
    action_evenness: float
    distinct_actions: int
    action_templates: int
    common_actions_share: float
    distinct_goal_share: float
    goal_opening_entropy: float
    common_goal_share: float
    mean_player_turns: float
    mean_tokens: float


def data_set_features(
    rows: Sequence[FeatureRow], dropped: Sequence[DroppedSample], diversity: Diversity
) -> DataSetFeatures:
    """The features of all trajectories together.

    Args:
        rows: one per trajectory.
        dropped: the samples that never became a trajectory.
        diversity: what was counted while the rows were made.
    """
    count = len(rows)
    personas = {row.persona_id for row in rows}
    player_turns = sum(row.player_turns for row in rows)
    errors = sum(row.error_turns for row in rows)
    kinds = (
        sum(row.parameter_errors for row in rows),
        sum(row.logic_errors for row in rows),
        sum(row.place_errors for row in rows),
    )
    return DataSetFeatures(
        trajectories=count,
        personas=len(personas),
        dropped=len(dropped),
        kept_share=_share(count, count + len(dropped)),
        kept_persona_share=_share(len(personas), len(personas.union(sample.persona_id for sample in dropped))),
        unique_id_share=_share(len({row.id for row in rows}), count),
        copy_share=_share(sum(row.copy_of is not None for row in rows), count),
        near_duplicate_share=_share(sum(row.near_duplicate_of is not None for row in rows), count),
        script_near_duplicate_share=_share(sum(row.script_near_duplicate_of is not None for row in rows), count),
        held_out_overlaps=sum(row.held_out_overlap is not None for row in rows),
        error_turn_ratio=_share(errors, player_turns),
        corrected_share=_share(sum(row.error_refine_turns for row in rows), errors),
        rarest_error_share=_share(min(kinds), errors),
        largest_persona_share=diversity.largest_persona_share,
        persona_near_duplicate_share=diversity.persona_near_duplicate_share,
        action_entropy=diversity.action_entropy,
        action_evenness=diversity.action_evenness,
        distinct_actions=diversity.distinct_actions,
        action_templates=diversity.action_templates,
        common_actions_share=diversity.common_actions_share,
        distinct_goal_share=diversity.distinct_goal_share,
        goal_opening_entropy=diversity.goal_opening_entropy,
        common_goal_share=diversity.common_goal_share,
        mean_player_turns=_share(player_turns, count),
        mean_tokens=_share(sum(row.tokens or 0 for row in rows), count),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
