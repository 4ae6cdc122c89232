"""The quality gate's section of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agentrefine.params.base import Section, Severity, Share


class Requirement(Section):
    """What must hold for at least the share `mostly` of the trajectories."""

    mostly: Share = 1.0
    severity: Severity


class Band(Section):
    """The values, ends included, that a number may take."""

    min: float | None = None
    max: float | None = None
    severity: Severity

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a band needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` ({self.min}) is above `max` ({self.max})")
        return self


class MostlyBand(Band):
    """A band that at least the share `mostly` of the trajectories must keep to."""

    mostly: Share = 1.0


class TrajectoryThresholds(Section):
    """One threshold per column of the feature table (`agentrefine.quality.features.FeatureRow`)."""

    id: Requirement
    format_problem: Requirement
    broken_rule: Requirement
    completed: Requirement
    copy_of: Requirement
    near_duplicate_of: Requirement
    script_near_duplicate_of: Requirement
    held_out_overlap: Requirement
    error_turn_ratio: MostlyBand
    error_refine_turns: MostlyBand
    corrected_share: MostlyBand
    player_turns: MostlyBand
    tokens: MostlyBand


class DataSetThresholds(Section):
    """One threshold per feature of the whole data set (`agentrefine.quality.features.DataSetFeatures`)."""

    trajectories: Band
    personas: Band
    kept_share: Band
    kept_persona_share: Band
    error_turn_ratio: Band
    corrected_share: Band
    rarest_error_share: Band
    largest_persona_share: Band
    persona_near_duplicate_share: Band
    action_entropy: Band
    action_evenness: Band
    distinct_actions: Band
    action_templates: Band
    common_actions_share: Band
    distinct_goal_share: Band
    goal_opening_entropy: Band
    common_goal_share: Band


class Thresholds(Section):
    """What the gate demands of each trajectory and of the data set as a whole."""

    trajectory: TrajectoryThresholds
    data_set: DataSetThresholds


class QualityGateParams(Section):
    """What a data set must be before a model is tuned on it."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]
    tokenizer: str
    near_duplicate_similarity: Annotated[float, Field(ge=0.5, le=0.98)]
    persona_similarity: Annotated[float, Field(ge=0.5, le=0.98)]
    overlap_words: Annotated[int, Field(ge=4, le=50)]
    overlap_benchmarks: Literal["installed"] | list[str]
    overlap_episodes: Annotated[int, Field(gt=0)]
    thresholds: Thresholds
