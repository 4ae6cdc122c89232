"""The quality gate's section of params.yaml."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from agentrefine.params.base import Section, Severity, Share, param


class Requirement(Section):
    """What must hold for at least the share `mostly` of the trajectories."""

    mostly: Share = 1.0
    severity: Severity = "critical"


class Band(Section):
    """The values, ends included, that a number may take."""

    min: float | None = None
    max: float | None = None
    severity: Severity = "critical"

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


def _all(comment: str, mostly: float = 1.0) -> Requirement:
    return param(Requirement(mostly=mostly), comment)


def _band(comment: str, **limits: Any) -> Any:  # noqa: ANN401 (either band)
    """A band's default: of all trajectories where `mostly` is given, else of the data set."""
    return param(MostlyBand(**limits) if "mostly" in limits else Band(**limits), comment)


class TrajectoryThresholds(Section):
    """One threshold per column of the feature table (`agentrefine.quality.features.FeatureRow`)."""

    id: Requirement = _all("unique")
    format_problem: Requirement = _all("none: turns alternate, replies read back")
    broken_rule: Requirement = _all("none: verified again, so an unflagged mistake is found")
    completed: Requirement = _all("the last action completes the game")
    copy_of: Requirement = _all("none")
    near_duplicate_of: Requirement = _all("no other game that is almost the same", 0.97)
    script_near_duplicate_of: Requirement = _all("no other script that is almost the same", 0.97)
    held_out_overlap: Requirement = _all("none: no world that models are evaluated on, no text of a benchmark")
    error_turn_ratio: MostlyBand = _band("mistaken player turns of all", min=0.1, max=0.6, mostly=0.95)
    error_refine_turns: MostlyBand = _band("mistakes with a correction", min=2, mostly=1.0)
    corrected_share: MostlyBand = _band(
        "of the mistakes, by the very next player turn", min=0.5, mostly=0.9, severity="warning"
    )
    player_turns: MostlyBand = _band("of a game", min=3, max=30, mostly=0.99)
    tokens: MostlyBand = _band("of a game", min=50, max=1280, mostly=0.99)


class DataSetThresholds(Section):
    """One threshold per feature of the whole data set (`agentrefine.quality.features.DataSetFeatures`)."""

    trajectories: Band = _band("how many there are", min=20)
    personas: Band = _band("how many there are; the validation set needs one of its own", min=2)
    kept_share: Band = _band("of the samples", min=0.7)
    kept_persona_share: Band = _band("personas with a trajectory at least", min=0.9)
    error_turn_ratio: Band = _band("mistaken player turns of all", min=0.15, max=0.5)
    corrected_share: Band = _band("of the mistakes", min=0.6)
    rarest_error_share: Band = _band("of parameter, logic and place errors", min=0.05, severity="warning")
    largest_persona_share: Band = _band("of all trajectories", max=0.2)
    persona_near_duplicate_share: Band = _band("of the personas", max=0.05, severity="warning")
    action_entropy: Band = _band("bits, over the actions' verbs", min=2.0, severity="warning")
    action_evenness: Band = _band("the same, divided by its maximum for so many verbs", min=0.4, severity="warning")
    distinct_actions: Band = _band("how many there are", min=50, severity="warning")
    action_templates: Band = _band('such as "take {item} from {spot}"', min=8, severity="warning")
    common_actions_share: Band = _band("trajectories with the most common set of templates", max=0.5)
    distinct_goal_share: Band = _band("of all trajectories", min=0.2, severity="warning")
    goal_opening_entropy: Band = _band("bits, over the goals' first three words", min=3.0, severity="warning")
    common_goal_share: Band = _band("trajectories whose goals differ in names alone", max=0.5)


class OnPolicyThresholds(Section):
    """One threshold per feature of a data set of corrected games (`agentrefine.quality.corrected`)."""

    games: Band = _band("how many there are", min=20)
    given_up_share: Band = _band("of the worlds played: the goal was out of reach, or it took too long", max=0.2)
    fault_share: Band = _band("mistaken turns of all", min=0.05, max=0.6)
    corrected_share: Band = _band("of the rows of mistakes, by the next turn", min=0.5)
    near_duplicate_share: Band = _band("games that are almost the same as an earlier one", max=0.05)
    held_out_overlaps: Band = _band("games in a world that models are evaluated on", max=0)


Similarity = Annotated[float, Field(ge=0.5, le=0.98)]


class Thresholds(Section):
    """What the gate demands of each trajectory and of the data set as a whole."""

    trajectory: TrajectoryThresholds = param(
        TrajectoryThresholds(),
        "critical stops the pipeline, warning is printed; mostly: the share of the trajectories to meet it",
    )
    data_set: DataSetThresholds = param(DataSetThresholds(), "null leaves an end of a band open")
    on_policy: OnPolicyThresholds = param(OnPolicyThresholds(), "of each data set of the section on_policy")


class QualityGateParams(Section):
    """What a data set must be before a model is tuned on it."""

    validation_share: Annotated[float, Field(gt=0, lt=1)] = param(0.03, "of the games; no persona is in both sets")
    tokenizer: str = param("base_model", 'counts tokens: "base_model" is the tuned model, else a path or hub id')
    near_duplicate_similarity: Similarity = param(
        0.9, "Jaccard similarity of two games' or scripts' three-word shingles"
    )
    persona_similarity: Similarity = param(0.7, "the same of two personas' runs of five letters")
    overlap_words: Annotated[int, Field(ge=4, le=50)] = param(
        8, "a run of so many words that also stands in a benchmark is an overlap with it"
    )
    overlap_benchmarks: Literal["installed"] | list[str] = param(
        [], "compared with, besides those that are evaluated; a list, or installed: all that are"
    )
    overlap_episodes: PositiveInt = param(20, "of each are solved and their texts looked for; of a simulator's fewer")
    thresholds: Thresholds = Thresholds()
