"""The registered model, in a real store: its alias moves by comparison, and a version says which one decided."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from agentrefine.params import Params
from tasks.tracking import registry
from tasks.tracking.registry import Registration
from tests.helpers.results_tree import episodes, write_evaluation
from tests.tracking.stages import evaluated, tuned


def registered(params: Params, root: Path, digest: str, solved: int, baseline: int = 1) -> Registration:
    """Tune, evaluate and register one model that solves so many of 20 episodes; plain expert tuning solves 1."""
    run_id = tuned(params, root, digest, weights=digest.encode())
    plain = evaluated(params, root, "expert_only", f"plain{baseline}", baseline)
    played = evaluated(params, root, "refinement", digest, solved)
    return registry.register("refinement", digest, run_id, params, episodes=played, baseline_episodes=plain)


def test_first_champion_must_beat_the_baseline(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    weak = registered(params, tmp_path, "d1", solved=2)
    assert (weak.version, weak.alias, list(weak.comparisons)) == ("1", "challenger", ["expert_only"])
    assert "champion" not in client.get_registered_model("agentrefine-agent").aliases
    strong = registered(params, tmp_path, "d2", solved=12)
    assert (strong.version, strong.alias, list(strong.comparisons)) == ("2", "champion", ["expert_only"])
    assert client.get_registered_model("agentrefine-agent").aliases == {"challenger": 1, "champion": 2}
    tags = client.get_model_version("agentrefine-agent", "2").tags
    assert tags["compared_with"] == "expert_only"
    assert tags["verdict"].startswith("expert_only: better (+55 [")
    assert tags["benchmark"] == "worlds_layouts"
    description = client.get_model_version("agentrefine-agent", "2").description
    assert "champion by comparison on worlds layouts. Against expert_only: better (+55 [" in description
    assert description.startswith("refinement / tiny / seed 7.")


@pytest.mark.parametrize("solved", [12, 13, 3])
def test_a_model_that_is_not_better_than_plain_expert_tuning_is_no_champion(
    params: Params, client: MlflowClient, tmp_path: Path, solved: int
) -> None:
    assert registered(params, tmp_path, "d1", solved=solved, baseline=12).alias == "challenger"
    assert "champion" not in client.get_registered_model("agentrefine-agent").aliases


def test_one_of_several_seeds_does_not_become_champion(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    variants = {
        name: variant.model_copy(update={"seed": 7}) if name == "refinement" else variant
        for name, variant in params.tuning.variants.items()
    }
    seeded = params.model_copy(update={"tuning": params.tuning.model_copy(update={"variants": variants})})
    found = registered(seeded, tmp_path, "d1", solved=18)
    assert found.alias == "challenger"
    assert {name: c.verdict for name, c in found.comparisons.items() if c} == {"expert_only": "better"}


def test_a_model_better_than_the_champion_must_also_beat_the_baseline(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=8)
    found = registered(params, tmp_path, "d2", solved=18, baseline=17)
    assert found.alias == "challenger"
    verdicts = {name: comparison.verdict for name, comparison in found.comparisons.items() if comparison}
    assert verdicts == {"expert_only": "too few episodes differ", "version 1": "better"}


def test_the_baseline_has_an_alias_of_its_own(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    played = evaluated(params, tmp_path, "expert_only", "plain", 12)
    run_id = tuned(params, tmp_path, "plain")
    for _ in range(2):
        found = registry.register("expert_only", "plain", run_id, params, episodes=played, baseline_episodes=played)
        assert found == Registration("1", "baseline", {})
    other = params.model_copy(update={"report": params.report.model_copy(update={"baseline": "base"})})
    base = evaluated(params, tmp_path, "base", "base0", 1)
    registry.register("expert_only", "plain", run_id, other, episodes=played, baseline_episodes=base)
    assert list(client.get_registered_model("agentrefine-agent").aliases) == ["champion"]
    assert client.get_model_version("agentrefine-agent", "1").tags["compared_with"] == "base"
    registry.register("expert_only", "plain", run_id, params, episodes=played, baseline_episodes=played)
    assert set(client.get_model_version("agentrefine-agent", "1").tags) == {"model", "model_digest"}


def test_champion_is_replaced_only_by_a_model_that_is_better_beyond_the_interval(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    registered(params, tmp_path, "d1", solved=8)
    close = registered(params, tmp_path, "d2", solved=9)
    assert (close.alias, list(close.comparisons)) == ("challenger", ["expert_only", "version 1"])
    with_champion = close.comparisons["version 1"]
    assert with_champion is not None
    assert (with_champion.only_a, with_champion.only_b) == (1, 0)
    better = registered(params, tmp_path, "d3", solved=18)
    assert (better.alias, list(better.comparisons)) == ("champion", ["expert_only", "version 1"])
    aliases = client.get_registered_model("agentrefine-agent").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": 3, "challenger": 2}


def test_challenger_that_becomes_champion_is_no_longer_challenger(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    registered(params, tmp_path, "d1", solved=2)
    assert registered(params, tmp_path, "d1", solved=15).alias == "champion"
    assert list(client.get_registered_model("agentrefine-agent").aliases) == ["champion"]


def test_registering_twice_makes_one_version(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    first, second = (registered(params, tmp_path, "d1", solved=12) for _ in range(2))
    assert (first.version, first.alias) == (second.version, second.alias) == ("1", "champion")
    assert second.comparisons == {}
    assert len(client.search_model_versions("name = 'agentrefine-agent'")) == 1


def test_champion_with_other_episodes_is_kept(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=12)
    other = params.model_copy(update={"report": params.report.model_copy(update={"champion_benchmark": "babyai"})})
    run_id = tuned(params, tmp_path, "d2", weights=b"d2")
    played = write_evaluation(tmp_path / "d2", "refinement", episodes("refinement", 20, benchmark="babyai"))
    registration = registry.register(
        "refinement", "d2", run_id, other,
        episodes=played / "episodes.jsonl", baseline_episodes=played / "episodes.jsonl",
    )  # fmt: skip
    assert (registration.alias, registration.comparisons["version 1"]) == ("challenger", None)


def test_champion_comes_back_byte_for_byte(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=12)
    client = MlflowClient(params.tracking.uri)
    version = client.get_model_version_by_alias("agentrefine-agent", "champion")
    folder = Path(client.download_artifacts(version.run_id, "model/weights", str(tmp_path)))
    source = tmp_path / "models/refinement"
    names = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    assert len(names) == 2
    assert sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) == names
    assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_a_champion_that_played_by_other_limits_is_not_compared(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=12)
    shorter = params.evaluation.model_copy(update={"max_steps": 7})
    found = registered(params.model_copy(update={"evaluation": shorter}), tmp_path, "d2", solved=20)
    assert (found.alias, found.comparisons["version 1"]) == ("challenger", None)
