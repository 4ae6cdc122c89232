"""What an agent reads before a game: introductions that fit, and examples that are true."""

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentrefine import benchmarks
from agentrefine.benchmarks.alfworld import benchmark as alfworld
from agentrefine.benchmarks.catalogue import BENCHMARKS, benchmark, perturbation_of
from agentrefine.benchmarks.hotpotqa.benchmark import HotpotQA
from agentrefine.benchmarks.jericho import benchmark as jericho
from agentrefine.benchmarks.pddl.benchmark import Pddl
from agentrefine.errors import UserError
from agentrefine.evaluation.prompting import PlayPrompt, example, play_prompt
from agentrefine.evaluation.rollout import play
from agentrefine.game.conversation import instructions, reply_text
from agentrefine.params.evaluation import Prompting
from agentrefine.worlds import catalogue
from agentrefine.worlds.catalogue import PARAPHRASES, paraphrase
from agentrefine.worlds.layout import EVALUATION_SEEDS, world_from_id
from agentrefine.worlds.thoughts import phrasings
from tests.helpers.errors import refused
from tests.helpers.playing import ScriptedPolicy
from tests.helpers.world_games import unknown_words

PACKAGES = Path(benchmarks.__file__).parent
EXAMPLES = sorted({name.partition("_")[0] for name in BENCHMARKS})
SIMULATORS = ("alfworld", "sciworld", "textworld", "jericho")
ACTIONS = {"push {button}": "Push a button.", "look around": "List what is here."}
GAME = SimpleNamespace(actions=ACTIONS, goal="Push button 1.")

every_benchmark = pytest.mark.parametrize("name", BENCHMARKS)
every_example = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SIMULATORS)) for name in EXAMPLES]
)
every_perturbation = pytest.mark.parametrize("perturbation_name", PARAPHRASES)


def first_message(name, style, shots, action_perturbation=None):
    """What the agent reads before its first turn, as one text."""
    return (
        PlayPrompt(name, Prompting(style=style, shots=shots)).opening(GAME, "a button", action_perturbation)[0].content
    )


def drawn(name, number, seed):
    """A benchmark's episodes; a test of one whose simulator is not installed is skipped."""
    try:
        return benchmark(name).episodes(number, seed)
    except UserError as error:
        pytest.skip(str(error))


def played_on(name):
    """The benchmark of the example's episode; where evaluation draws all there are, the example has its own files."""
    if name == "pddl":
        return Pddl(PACKAGES / "pddl" / "example")
    if name == "hotpotqa":
        return HotpotQA(PACKAGES / "hotpotqa" / "example.json")
    drawn(example(name).episode.benchmark, 1, 0)
    return benchmark(example(name).episode.benchmark)


def fits(action, template):
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)), action) is not None


def replay(environment, shown):
    """Play an example; what it shows has to be what happens."""
    assert environment.reset() == shown.observation
    assert environment.goal == shown.goal
    results = []
    for turn in shown.turns:
        assert any(fits(turn.action, template) for template in environment.actions), turn.action
        results.append(environment.step(turn.action))
        assert results[-1].observation == turn.observation
    environment.close()
    return results


def test_a_game_without_words_of_its_own_reads_as_in_training():
    for name in ("worlds_layouts", "worlds_families", "worlds_perturbed", "worlds_faulty"):
        assert first_message(name, "react", 0) == instructions(ACTIONS)


@every_benchmark
@pytest.mark.parametrize("style", ["react", "act"])
@pytest.mark.parametrize("shots", [0, 1])
def test_the_agent_reads_the_game_the_form_and_the_actions(name, style, shots):
    text = first_message(name, style, shots)
    form = play_prompt(f"{style}.md").rstrip("\n")
    introduction, found, rest = text.partition(form)
    assert found
    assert len(introduction) > (100 if name.partition("_")[0] != "worlds" else 10)
    assert rest.startswith("\nActions:\npush {button}: Push a button.\nlook around: List what is here.")
    assert "$" not in text
    assert text == text.strip()
    assert ("Thought:" in text) == (style == "react")
    assert (example(name).goal in text) == bool(shots)
    assert all((f"Action: {turn.action}\n{turn.observation}" in text) == bool(shots) for turn in example(name).turns)
    thoughts = [turn.thought in text for turn in example(name).turns]
    assert all(thoughts) if shots and style == "react" else not any(thoughts)


def test_an_example_reads_as_the_game_that_follows():
    text = first_message("worlds_layouts", "react", 1)
    shown = example("worlds_layouts")
    begins = text.partition(play_prompt("example.md"))[2]
    first = shown.turns[0]
    assert begins.startswith(
        f"Goal: {shown.goal}\n{shown.observation}\n{reply_text(first.thought, first.action)}\n{first.observation}\n"
    )


def test_a_benchmark_without_an_example_is_refused_with_the_setting_that_asks_for_one():
    with refused("no_example", key="evaluation.prompting.shots", name="chess"):
        first_message("chess", "react", 1)


@every_example
def test_an_example_is_what_happens_and_ends_solved(name, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTREFINE_GAMES", str(tmp_path))
    monkeypatch.delenv(alfworld.DATA_FOLDER, raising=False)
    shown = example(name)
    results = replay(played_on(name).make(shown.episode), shown)
    assert 4 <= len(results) <= 10
    assert [result.success for result in results] == [False] * (len(results) - 1) + [True]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "hotpotqa"])
def test_an_example_shows_a_mistake_that_the_next_turn_corrects(name):
    signs = ("That does not work:", "Nothing happens.", "You cannot", "No known action", "You have to", "You need to")
    failed = [turn.observation.startswith(signs) for turn in example(name).turns]
    assert any(failed)
    assert not any(pair == (True, True) for pair in pairwise(failed))
    assert not failed[-1]


@every_benchmark
@pytest.mark.parametrize("seed", [0, 7])
def test_evaluation_never_draws_an_example(name, seed):
    episodes = drawn(name, 60, seed)
    assert example(name).episode.id not in {episode.id.partition("/")[0] for episode in episodes}


def test_no_seed_of_evaluation_can_draw_an_example():
    assert world_from_id(example("worlds").episode.id).seed < EVALUATION_SEEDS
    assert example("alfworld").episode.seed >= 1_000_000
    assert example("babyai").episode.seed not in range(1234, 1238)
    for name in ("textworld", "jericho"):
        assert example(name).episode.seed >= 1_000_000


def test_a_tiny_model_knows_every_word_of_the_worlds_example():
    words = catalogue.vocabulary() | {word for template in phrasings() for word in catalogue.words_in(template)}
    shown = example("worlds")
    said = [shown.goal, shown.observation]
    said += [text for turn in shown.turns for text in (turn.thought, turn.action, turn.observation)]
    assert not unknown_words(" ".join(said), words)
    assert (
        catalogue.all_families()[shown.episode.task].split
        == catalogue.all_themes()[shown.episode.variant].split
        == "train"
    )


def test_an_example_fits_the_games_that_a_user_brings():
    # Older games of ALFWorld word one action otherwise; stories know no list of possible actions.
    assert not any(turn.action.startswith("move ") for turn in example("alfworld").turns)
    known = [template for template in jericho.DATA["actions"] if not template.startswith("{")]
    assert all(any(fits(turn.action, template) for template in known) for turn in example("jericho").turns)


@every_perturbation
def test_an_example_is_true_in_the_perturbation_of_the_episode(perturbation_name):
    shown = example("worlds").perturbed(paraphrase(perturbation_name))
    episode = shown.episode.model_copy(
        update={"id": f"{shown.episode.id}/{perturbation_name}", "perturbation": perturbation_name}
    )
    results = replay(benchmark("worlds_perturbed").make(episode), shown)
    assert results[-1].success
    for turn, usual in zip(shown.turns, example("worlds").turns, strict=True):
        assert turn.action == paraphrase(perturbation_name).render(usual.action) != usual.action
        assert (turn.thought, turn.observation) == (usual.thought, usual.observation)


def test_a_perturbed_episode_is_played_with_the_example_in_its_perturbation():
    chosen = benchmark("worlds_perturbed")
    episodes = chosen.episodes(5, 7)
    policy = ScriptedPolicy({episode.id: ["Action: dance"] for episode in episodes})
    prompting = Prompting(style="act", shots=1)
    list(play(policy, chosen, episodes, max_steps=1, batch_size=5, prompting=prompting))
    for episode in episodes:
        paraphrased = perturbation_of(episode)
        read = policy.read[episode.id][0].content
        for turn in example("worlds").turns:
            assert f"\nAction: {paraphrased.render(turn.action)}\n" in read
            assert f"\nAction: {turn.action}\n" not in read
    assert all(perturbation_of(episode) is None for episode in benchmark("worlds_layouts").episodes(5, 7))


def test_a_reply_that_is_no_single_action_is_answered_by_the_form_of_act():
    chosen = benchmark("worlds_layouts")
    (episode,) = chosen.episodes(1, 7)
    first = chosen.gold(episode)[0]
    malformed = [reply_text("I go.", first), first, f"Action: {first}\nAction: {first}", "Action:", ""]
    policy = ScriptedPolicy({episode.id: [*malformed, f" Action: {first}\n"]})
    (played,) = play(policy, chosen, [episode], max_steps=6, batch_size=1, prompting=Prompting(style="act"))
    assert [step.format_error for step in played.steps] == [True] * 5 + [False]
    assert {step.observation for step in played.steps[:5]} == {play_prompt("act_format_error.md").rstrip("\n")}
    assert (played.steps[5].thought, played.steps[5].action, played.steps[5].valid) == ("", first, True)
