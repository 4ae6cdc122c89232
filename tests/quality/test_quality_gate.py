"""The quality gate: sound data passes; each kind of poison is found by its own expectation and named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.game.trajectory import PlayerTurn, Trajectory
from agentrefine.params import load_params
from agentrefine.quality.data_set import validation_personas
from tasks.quality_gate import run_gate
from tests.helpers.builders import DIALECTS, make_trajectory
from tests.helpers.errors import refused
from tests.helpers.gates import HELD_OUT, Gate, params, replaced, sound


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_sound_data_passes_and_is_written_in_the_published_form(gate: Gate) -> None:
    trajectories = sound()
    result = gate.run(trajectories)
    assert result.passed
    assert not [f for f in result.failures if f.severity == "critical"]
    train = list(read_jsonl(gate.out / "train.jsonl", Sample))
    validation = list(read_jsonl(gate.out / "validation.jsonl", Sample))
    assert sorted(s.id for s in train + validation) == sorted(t.id for t in trajectories)
    assert validation
    first = json.loads((gate.out / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert [m["from"] for m in first["conversations"][:4]] == ["human", "gpt", "human", "gpt"]
    assert {m["loss"] for m in first["conversations"] if m["from"] == "gpt"} == {True, False}


def test_one_personas_games_never_stand_in_both_files(gate: Gate) -> None:
    gate.run(sound(60))
    train = {s.persona_id for s in read_jsonl(gate.out / "train.jsonl", Sample)}
    validation = {s.persona_id for s in read_jsonl(gate.out / "validation.jsonl", Sample)}
    assert train
    assert validation
    assert not train & validation


def test_the_split_follows_the_seed_alone_and_never_takes_every_persona() -> None:
    personas = [f"p{n}" for n in range(200)]
    chosen = validation_personas(personas, 0.1, seed=7)
    assert len(chosen) == 20
    assert chosen == validation_personas(reversed(personas), 0.1, seed=7)
    assert chosen != validation_personas(personas, 0.1, seed=8)
    assert len(validation_personas(["a", "b"], 0.01, seed=7)) == 1
    assert len(validation_personas(["a", "b"], 0.99, seed=7)) == 1
    assert validation_personas(["a"], 0.5, seed=7) == frozenset()


def unflagged(trajectory: Trajectory) -> Trajectory:
    """The DM accepts what was a mistake."""
    silent = {"parameter_error": False, "logic_error": False, "place_error": False}
    return replaced(
        trajectory,
        turns=[t if isinstance(t, PlayerTurn) else t.model_copy(update=silent) for t in trajectory.turns],
    )


def one_unflagged(trajectory: Trajectory) -> Trajectory:
    """One parameter error goes unnoticed; the others are still called mistakes."""
    at = next(n for n, t in enumerate(trajectory.turns) if not isinstance(t, PlayerTurn) and t.parameter_error)
    turns = list(trajectory.turns)
    turns[at] = turns[at].model_copy(update={"parameter_error": False})
    return replaced(trajectory, turns=turns)


def unfinished(trajectory: Trajectory) -> Trajectory:
    return replaced(trajectory, turns=trajectory.turns[:-2])


def cut_after_player(trajectory: Trajectory) -> Trajectory:
    return replaced(trajectory, turns=trajectory.turns[:-1])


def reworded(trajectory: Trajectory) -> Trajectory:
    """Another id and one other word."""
    turns = list(trajectory.turns)
    turns[0] = turns[0].model_copy(update={"observation": turns[0].observation + " Hello."})
    return replaced(trajectory, id="reworded", turns=turns)


def two_line_action(trajectory: Trajectory) -> Trajectory:
    turns = list(trajectory.turns)
    turns[1] = turns[1].model_copy(update={"action": "go sea\nAction: go moon"})
    return replaced(trajectory, turns=turns)


@pytest.mark.parametrize(
    ("column", "poison", "value"),
    [
        ("broken_rule", one_unflagged, "unflagged_error"),
        ("broken_rule", unflagged, "unflagged_error"),
        ("error_refine_turns", unflagged, "0"),
        ("completed", unfinished, "False"),
        ("format_problem", cut_after_player, "the DM does not have the last word"),
        ("format_problem", lambda t: replaced(t, turns=[]), "fewer than three turns"),
        ("format_problem", two_line_action, "a player turn that does not read back from its reply text"),
        ("held_out_overlap", lambda t: make_trajectory(5, world="unlock.kitchen.3"), "held-out family unlock"),
        ("held_out_overlap", lambda t: make_trajectory(5, world="fetch.harbor.3"), "held-out theme harbor"),
        ("held_out_overlap", lambda t: make_trajectory(5, world="fetch.kitchen.1000"), "evaluation seed 1000"),
        (
            "held_out_overlap",
            lambda t: replaced(t, script=t.script.model_copy(update={"goal": "Go to the red ball!"})),
            'rooms goal "go to the red ball"',
        ),
    ],
)
def test_one_poisoned_game_is_found_and_named(
    gate: Gate, column: str, poison: Callable[[Trajectory], Trajectory], value: str
) -> None:
    trajectories = sound()
    trajectories[5] = poison(trajectories[5])
    refusal = gate.refused(trajectories)
    finding = refusal.finding("trajectory", column)
    assert finding.example_ids == [trajectories[5].id]
    assert finding.example_values[0].startswith(value)


def test_the_message_of_a_refusal_names_the_game_and_the_feature(gate: Gate) -> None:
    trajectories = sound()
    trajectories[5] = two_line_action(trajectories[5])
    refusal = gate.refused(trajectories)
    assert trajectories[5].id in refusal.message
    assert "format_problem" in refusal.message


def shapes(trajectory: Trajectory) -> Iterator[Trajectory]:
    """Games that can be read and make no sense."""
    turns = trajectory.turns
    for odd in ([], turns[:1], turns[1:2], turns[1:], turns[::2], turns[1::2], turns[::-1], turns + turns):
        yield replaced(trajectory, turns=odd)
    for code in ("(", "(?=x)", "a{1001}"):
        spec = trajectory.script.available_actions["go {place}"].model_copy(update={"verification_code": code})
        actions = trajectory.script.available_actions | {"go {place}": spec}
        yield replaced(trajectory, script=trajectory.script.model_copy(update={"available_actions": actions}))
    for environment in ({"world": 5}, {"world": ["a.b.c"]}, {"world": "unlock.kitchen.many"}, {"world": "..."}):
        yield replaced(trajectory, script=trajectory.script.model_copy(update={"environment": environment}))


def test_games_that_make_no_sense_are_described_and_refused(gate: Gate) -> None:
    odd = list(shapes(make_trajectory(7)))
    named = [replaced(t, id=f"odd-{n}") for n, t in enumerate(odd)]
    refusal = gate.refused([*sound(), *named])
    found = set(refusal.finding("trajectory", "format_problem").example_ids)
    found |= set(refusal.finding("trajectory", "broken_rule").example_ids)
    assert {f"odd-{n}" for n in range(8)} <= found
    rows = list(csv.DictReader((gate.reports / "features.csv").open(encoding="utf-8")))[-len(odd) :]
    assert all(row["format_problem"] or row["broken_rule"] for row in rows)


def test_an_exact_copy_names_the_copy_and_the_original(gate: Gate) -> None:
    trajectories = sound()
    trajectories.append(replaced(trajectories[3], id="copy"))
    finding = gate.refused(trajectories).finding("trajectory", "copy_of")
    assert (finding.example_ids, finding.example_values) == (["copy"], [trajectories[3].id])


def test_too_many_near_duplicates_are_refused_and_a_few_are_not(gate: Gate) -> None:
    few = sound(40)
    assert gate.run([*few, reworded(few[0])]).passed
    many = [replaced(reworded(t), id=f"reworded-{n}") for n, t in enumerate(few[:8])]
    refusal = gate.refused([*few, *many])
    finding = refusal.finding("trajectory", "near_duplicate_of")
    assert refusal.critical == ["trajectory.near_duplicate_of", "trajectory.script_near_duplicate_of"]
    assert finding.example_ids == [f"reworded-{n}" for n in range(8)]
    assert finding.example_values == [t.id for t in few[:8]]
    assert finding.share == pytest.approx(8 / 48, abs=1e-6)


def test_different_games_in_the_same_scripts_are_refused(gate: Gate) -> None:
    few = sound(40)
    others = [
        replaced(make_trajectory(1000 + n, dialect=DIALECTS[n % len(DIALECTS)]), script=few[n].script) for n in range(8)
    ]
    refusal = gate.refused([*few, *others])
    finding = refusal.finding("trajectory", "script_near_duplicate_of")
    assert finding.example_ids == [t.id for t in others]
    assert finding.example_values == [t.id for t in few[:8]]
    assert "trajectory.near_duplicate_of" not in refusal.critical


def test_different_games_of_one_kind_are_no_near_duplicates(gate: Gate) -> None:
    data_set = gate.run(sound(200)).data_set
    assert data_set["near_duplicate_share"] == data_set["script_near_duplicate_share"] == 0


def test_an_id_used_twice_is_refused(gate: Gate) -> None:
    trajectories = sound()
    trajectories[8] = replaced(trajectories[8], id=trajectories[2].id)
    finding = gate.refused(trajectories).finding("trajectory", "id")
    assert finding.example_ids == [trajectories[2].id] * 2


def test_a_ratio_of_mistakes_out_of_its_band_is_refused(gate: Gate) -> None:
    too_many = gate.refused([make_trajectory(n, mistakes=8) for n in range(40)])
    assert too_many.finding("trajectory", "error_turn_ratio").share == 1
    assert too_many.finding("data_set", "error_turn_ratio").observed == "0.6667"
    none = gate.refused([make_trajectory(n, mistakes=0) for n in range(40)])
    assert {"data_set.error_turn_ratio", "trajectory.error_refine_turns"} <= set(none.critical)


def test_too_few_kept_samples_are_refused(gate: Gate) -> None:
    refusal = gate.refused(sound(), dropped=60)
    assert refusal.critical == ["data_set.kept_share"]
    assert refusal.finding("data_set", "kept_share").observed == "0.4"


def test_personas_of_whom_nothing_was_kept_are_counted(gate: Gate) -> None:
    personas = {trajectory.persona_id for trajectory in sound()}
    kept = gate.run(sound(), dropped=1)
    assert kept.data_set["kept_persona_share"] == pytest.approx(len(personas) / len(personas | {"p"}))


def test_warnings_are_reported_and_do_not_stop(gate: Gate) -> None:
    result = gate.run(sound(), params(data_set={"action_entropy": {"min": 5.0, "severity": "warning"}}))
    assert result.passed
    assert "action_entropy" in [f.column for f in result.failures]
    assert (gate.out / "train.jsonl").is_file()


def test_the_same_threshold_stops_when_it_is_critical(gate: Gate) -> None:
    settings = params(data_set={"action_entropy": {"min": 5.0, "severity": "critical"}})
    assert gate.refused(sound(), settings).critical == ["data_set.action_entropy"]


@pytest.mark.parametrize(
    ("threshold", "passes"),
    [
        ({"max": 200.0, "severity": "critical"}, False),
        ({"max": 200.0, "mostly": 0.0, "severity": "critical"}, True),
        ({"max": 2000.0, "severity": "critical"}, True),
        ({"min": 2000.0, "severity": "warning"}, True),
    ],
)
def test_bands_shares_and_severities_of_params_are_honoured(gate: Gate, threshold: dict, passes: bool) -> None:
    settings = params(trajectory={"tokens": threshold})
    if passes:
        assert gate.run(sound(), settings).passed
    else:
        assert gate.refused(sound(), settings).critical == ["trajectory.tokens"]


@pytest.mark.parametrize(
    "threshold",
    [
        {"severity": "critical"},
        {"min": 3, "max": 2, "severity": "critical"},
        {"min": 3, "severity": "fatal"},
        {"min": 3, "mostly": 1.5, "severity": "critical"},
        {"minimum": 3, "severity": "critical"},
    ],
)
def test_a_threshold_that_means_nothing_is_refused_on_load(threshold: dict) -> None:
    with pytest.raises(ValidationError):
        params(trajectory={"tokens": threshold})


def test_a_refused_data_set_leaves_reports_and_removes_the_old_one(gate: Gate) -> None:
    gate.run(sound())
    assert (gate.out / "train.jsonl").is_file()
    gate.refused([unfinished(t) for t in sound()])
    assert not any(gate.out.iterdir())
    assert {p.name for p in gate.reports.iterdir()} == {"features.csv", "result.json", "summary.md"}
    assert "refused" in (gate.reports / "summary.md").read_text(encoding="utf-8")
    assert len((gate.reports / "features.csv").read_text(encoding="utf-8").splitlines()) == 41


@pytest.mark.parametrize("line", [b"{}", b"\xff\xfe", b'{"id": "\\ud800"}'])
def test_a_broken_line_is_named_and_leaves_no_old_data_set_and_no_old_verdict(gate: Gate, line: bytes) -> None:
    gate.run(sound())
    file = gate.folder / "trajectories.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    with refused("stage_file_broken", file=file, line=41):
        run_gate(
            file,
            gate.folder / "dropped.jsonl",
            gate.out,
            gate.reports,
            load_params(),
            count_tokens=len,
            texts=HELD_OUT,
        )
    assert not any(gate.out.iterdir())
    assert {p.name for p in gate.reports.iterdir()} == {"features.csv"}


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        gate = Gate(tmp_path / name)
        gate.folder.mkdir()
        trajectories = sound()
        gate.run([*trajectories, reworded(trajectories[0])])
        files = (gate.reports / "result.json", gate.reports / "features.csv", gate.reports / "summary.md")
        written.append([f.read_bytes() for f in (*files, *sorted(gate.out.iterdir()))])
    assert written[0] == written[1]
