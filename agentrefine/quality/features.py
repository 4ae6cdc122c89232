"""Features: what the quality gate measures of each trajectory, and of the whole data set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agentrefine.files import short_hash
from agentrefine.game.conversation import parse_reply, reply_text
from agentrefine.game.sample import sample
from agentrefine.game.text import three_word_runs
from agentrefine.game.trajectory import DMTurn, DroppedSample, PlayerTurn, Trajectory, Turn, error_refine_turns, steps
from agentrefine.params import VerificationParams
from agentrefine.quality.diversity import Diversity, DuplicateIndex, game_text, script_text
from agentrefine.quality.overlap import HeldOut, OverlapCounts, world_id
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import judge


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One trajectory's features. A column that names a problem is None where there is none.

    Attributes:
        id, persona_id: whose it is.
        script: hash of the script, equal for equal scripts.
        world: the world that the script was exported from; empty for a script of another origin.
        turns: DM and player turns together.
        player_turns: player turns that the DM answered.
        error_turns: player turns that the DM judged a mistake of any kind.
        parameter_errors, logic_errors, place_errors: the same by kind; one turn may be of several.
        error_turn_ratio: error_turns / player_turns.
        error_refine_turns: error-free player turns directly after a mistake.
        corrected_share: error_refine_turns / error_turns; None without mistakes.
        completed: the last turn says that the task is completed.
        tokens: tokens of the training sample's messages, without a chat template's own; None when there is no sample.
        format_problem: why the trajectory makes no well-formed conversation.
        broken_rule: the first verification rule that it breaks.
        copy_of: id of an earlier trajectory with the same texts.
        near_duplicate_of: id of an earlier trajectory that it resembles too closely; copies included.
        script_near_duplicate_of: id of an earlier trajectory whose script its own resembles too closely.
        held_out_overlap: what of the evaluation it repeats, with the benchmark's name and the text.
    """

    id: str
    persona_id: str
    script: str
    world: str
    turns: int
    player_turns: int
    error_turns: int
    parameter_errors: int
    logic_errors: int
    place_errors: int
    error_turn_ratio: float
    error_refine_turns: int
    corrected_share: float | None
    completed: bool
    tokens: int | None
    format_problem: str | None
    broken_rule: str | None
    copy_of: str | None
    near_duplicate_of: str | None
    script_near_duplicate_of: str | None
    held_out_overlap: str | None


def feature_rows(
    trajectories: Iterable[Trajectory],
    *,
    count_tokens: Callable[[str], int],
    verification: VerificationParams,
    held_out: HeldOut,
    near_duplicate_similarity: float,
    diversity: Diversity,
    overlaps: OverlapCounts,
) -> Iterator[FeatureRow]:
    """Stream the features of trajectories, in their order; an ill-formed trajectory has features too.

    Args:
        trajectories: read one at a time; nothing of one is kept but its row, two signatures and hashes.
        count_tokens: tokens of a text.
        verification: what the rules of verification demand; they judge every game again.
        held_out: what the data must not contain.
        near_duplicate_similarity: Jaccard similarity from which two games, or two scripts, are near-duplicates.
        diversity: counts each trajectory on the way.
        overlaps: counts what each shares with the benchmarks on the way.
    """
    games = DuplicateIndex(near_duplicate_similarity, three_word_runs)
    scripts = DuplicateIndex(near_duplicate_similarity, three_word_runs)
    for trajectory in trajectories:
        diversity.add(trajectory)
        found = held_out.texts.find(trajectory)
        overlaps.add(found)
        script, turns = trajectory.script, trajectory.turns
        answers = [step.answer for step in steps(turns)]
        errors = sum(answer.error for answer in answers)
        refined = error_refine_turns(turns)
        problem = format_problem(turns)
        last = turns[-1] if turns else None
        copy_of, near_duplicate_of = games.add(trajectory.id, game_text(trajectory))
        yield FeatureRow(
            id=trajectory.id,
            persona_id=trajectory.persona_id,
            script=short_hash(script.model_dump_json()),
            world=world_id(script),
            turns=len(turns),
            player_turns=len(answers),
            error_turns=errors,
            parameter_errors=sum(answer.parameter_error for answer in answers),
            logic_errors=sum(answer.logic_error for answer in answers),
            place_errors=sum(answer.place_error for answer in answers),
            error_turn_ratio=_share(errors, len(answers)),
            error_refine_turns=refined,
            corrected_share=refined / errors if errors else None,
            completed=isinstance(last, DMTurn) and last.task_completed,
            tokens=None if problem else count_tokens("\n".join(m.value for m in sample(trajectory).conversations)),
            format_problem=problem,
            broken_rule=broken_rule(trajectory, verification),
            copy_of=copy_of,
            near_duplicate_of=near_duplicate_of,
            script_near_duplicate_of=scripts.add(trajectory.id, script_text(script)).near_duplicate_of,
            held_out_overlap=held_out.overlap(script, found),
        )


def broken_rule(trajectory: Trajectory, params: VerificationParams) -> str | None:
    """The name of the first rule of verification that the script or the game breaks; None when they are sound."""
    script, problem = verify_script(trajectory.script.model_dump_json())
    if script and trajectory.turns:
        problem = judge(script, trajectory.turns, params).problem
    return problem.rule.value if problem else None


def format_problem(turns: Sequence[Turn]) -> str | None:
    """Why turns make no well-formed conversation, or None.

    DM and player speak in turn, the DM first and last; turns are numbered from 1; a player turn reads back from its
    reply text (`Thought: ...` newline `Action: ...`) as it was written.
    """
    if len(turns) < 3:
        return "fewer than three turns"
    for number, turn in enumerate(turns, start=1):
        if turn.turn != number:
            return "turns are not numbered from 1"
        if isinstance(turn, PlayerTurn):
            thought, action = turn.thought, turn.action
            if parse_reply(reply_text(thought, action)) != (thought.strip(), action.strip()):
                return "a player turn that does not read back from its reply text"
    if not isinstance(turns[0], DMTurn):
        return "the DM does not begin"
    if not isinstance(turns[-1], DMTurn):
        return "the DM does not have the last word"
    if any(before.role == after.role for before, after in pairwise(turns)):
        return "DM and player do not alternate"
    return None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class DataSetFeatures:
    """Features of the whole data set; entropies in bits. `Diversity` measures those from largest_persona_share on.

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
        largest_persona_share: the most trajectories of one persona / trajectories.
        persona_near_duplicate_share: personas that resemble an earlier one, whatever case and punctuation / personas.
        action_entropy: entropy of the actions' verbs.
        action_evenness: the same as a share of the most that so many verbs can have (Pielou 1966), 0 to 1.
        distinct_actions, action_templates: how many there are.
        common_actions_share: trajectories with the most common set of action templates / trajectories.
        distinct_goal_share: distinct goals / trajectories.
        goal_opening_entropy: entropy of the goals' first three words.
        common_goal_share: trajectories with the most common form of goal (`goal_form`) / trajectories.
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
    """The features of all trajectories together; `diversity` was counted while the rows were made."""
    count = len(rows)
    personas = {row.persona_id for row in rows}
    player_turns, errors = sum(row.player_turns for row in rows), sum(row.error_turns for row in rows)
    by_kind = ((row.parameter_errors, row.logic_errors, row.place_errors) for row in rows)
    kinds = [sum(counts) for counts in zip(*by_kind, strict=True)]
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
        rarest_error_share=_share(min(kinds, default=0), errors),
        **diversity.features(),
        mean_player_turns=_share(player_turns, count),
        mean_tokens=_share(sum(row.tokens or 0 for row in rows), count),
    )
