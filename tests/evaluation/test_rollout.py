"""The player: the dialogue is that of training, errors cost a step, episodes share one batch."""

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from agentrefine.benchmarks.base import EpisodeSpec, SimulatorError
from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode, count_replies
from agentrefine.evaluation.metrics import summarise
from agentrefine.evaluation.policy import Reply
from agentrefine.evaluation.prompting import play_prompt
from agentrefine.evaluation.rollout import play, play_async
from agentrefine.evaluation.times import EpisodeTimes, Times
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import instructions, opening, parse_reply, prompt, reply_text
from agentrefine.params.evaluation import Prompting
from tests.helpers.errors import refused
from tests.helpers.playing import PushBenchmark, PushGame, ScriptedPolicy, gold_policy

GOOD = reply_text("I push.", "push")
BAD = reply_text("I pull.", "pull")


def run(script, *, max_steps=6, seed=2):
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=seed)
    policy = ScriptedPolicy({"e": script})
    (episode,) = play(policy, PushBenchmark(), [spec], max_steps=max_steps, batch_size=1)
    return episode, policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thought: I push.\nAction: push", ("I push.", "push")),
        ("  Thought: a\n\nAction:   push the button  \n", ("a", "push the button")),
        ("Thought: a\nb\nAction: push", ("a\nb", "push")),
        ("Thought: a\r\nAction: push\r\n", ("a", "push")),
        ("", None),
        ("push", None),
        ("Action: push", None),
        ("Thought: I push.", None),
        ("Thought:\nAction: push", None),
        ("Thought: a\nAction:", None),
        ("Thought: a Action: push", None),
        ("Sure!\nThought: a\nAction: push", None),
        ("Thought: a\nAction: push\nObservation: pushed", None),
        ("Thought: a\nAction: push\nThought: b\nAction: pull", None),
        ("thought: a\naction: push", None),
    ],
)
def test_only_a_thought_and_one_action_line_are_a_reply(text, expected):
    assert parse_reply(text) == expected


def test_the_trained_form_is_read_back_as_it_was_written():
    assert parse_reply(reply_text("The key is here.", "take key")) == ("The key is here.", "take key")


def test_the_dialogue_is_that_of_training():
    _, policy = run([GOOD])
    before_last = policy.read["e"]
    assert before_last[:3] == opening(instructions(PushGame.actions), "push 2 times", "a button")
    assert [(m.role, m.content) for m in before_last[3:]] == [("assistant", GOOD), ("user", "pushed 1")]


def test_a_wrong_form_is_answered_counted_and_costs_a_step():
    episode, policy = run(["let me push", GOOD])
    assert [step.format_error for step in episode.steps] == [True, False, False]
    assert episode.steps[0].observation == prompt("format_error.md")
    assert not episode.steps[0].valid
    assert [m.content for m in policy.read["e"][3:5]] == ["let me push", prompt("format_error.md")]
    assert episode.success
    assert (episode.stop, episode.progress, episode.prompt_tokens, episode.completion_tokens) == ("solved", 1.0, 30, 15)


@pytest.mark.parametrize("before", ["<think>\nlet me push\n</think>\n\n", "let me push</think>", "[THINK]push[/THINK]"])
def test_thoughts_before_a_turn_are_recorded_and_neither_parsed_nor_kept_in_the_dialogue(before):
    episode, policy = run([before + GOOD])
    assert episode.success
    assert not any(step.format_error for step in episode.steps)
    assert [step.reply for step in episode.steps] == [before + GOOD] * len(episode.steps)
    assert policy.read["e"][3].content == GOOD


def test_thoughts_that_were_cut_are_a_format_error_and_leave_an_empty_message():
    episode, policy = run(["<think>let me pu", GOOD])
    assert [step.format_error for step in episode.steps] == [True, False, False]
    assert policy.read["e"][3].content == ""
    assert count_replies([episode]) == (3, 0, 1)


def test_cut_replies_are_counted():
    episode, _ = run([GOOD])
    cut = episode.steps[0].model_copy(update={"cut": True})
    assert count_replies([episode.model_copy(update={"steps": [cut, *episode.steps]})]) == (3, 1, 0)


@pytest.mark.parametrize(
    ("script", "stop", "progress", "steps"),
    [
        ([BAD], "step limit", 0.0, 6),
        ([GOOD, reply_text("I leave.", "quit")], "environment over", 0.5, 2),
        ([GOOD, reply_text("I break it.", "break")], "environment error", 0.0, 0),
        (["junk"], "step limit", 0.0, 6),
    ],
)
def test_an_unsolved_episode_says_why_it_ended(script, stop, progress, steps):
    episode, _ = run(script)
    assert (episode.stop, episode.progress, len(episode.steps), episode.success) == (stop, progress, steps, False)
    assert bool(episode.error) == (stop == "environment error")


def test_repeating_a_failing_action_is_seen_as_stuck():
    stuck, _ = run([BAD])
    twice, _ = run([BAD, BAD, GOOD])
    assert summarise([stuck])["push"].stuck_rate.value == 1
    assert summarise([twice])["push"].stuck_rate.value == 0
    recovery = summarise([twice])["push"].recovery_rate
    assert (recovery.value, recovery.n) == (0.5, 2)


def test_a_full_context_ends_the_episode():
    class Full(ScriptedPolicy):
        def act(self, dialogues):
            return [Reply("", 0, 0, turns_cut=0, context_full=True) for _ in dialogues]

    benchmark = PushBenchmark()
    (episode,) = play(Full({}), benchmark, benchmark.episodes(1, 0), max_steps=5, batch_size=1)
    assert (episode.stop, episode.steps, episode.success) == ("context full", [], False)


def test_a_freed_place_is_taken_by_the_next_episode_and_everything_is_closed():
    benchmark = PushBenchmark()
    episodes = benchmark.episodes(10, 0)
    policy = ScriptedPolicy({episode.id: [GOOD] for episode in episodes})
    played = list(play(policy, benchmark, episodes, max_steps=5, batch_size=4))
    assert sorted(e.id for e in played) == sorted(e.id for e in episodes)
    assert all(e.success for e in played)
    assert max(map(len, policy.batches)) == 4
    assert [len(batch) for batch in policy.batches[:3]] == [4, 4, 4]
    assert len(policy.batches) < 10
    assert sorted(policy.forgotten) == sorted(e.id for e in episodes)
    assert [game.closed for game in benchmark.made] == [1] * 10


def test_stopping_in_the_middle_closes_what_runs():
    benchmark = PushBenchmark()
    episodes = benchmark.episodes(6, 0)
    playing = play(ScriptedPolicy({e.id: [GOOD] for e in episodes}), benchmark, episodes, max_steps=5, batch_size=6)
    next(playing)
    playing.close()
    assert [game.closed for game in benchmark.made] == [1] * 6


def test_a_program_with_a_running_event_loop_plays_too():
    benchmark = PushBenchmark()
    episodes = benchmark.episodes(5, 0)

    def arguments():
        return gold_policy(benchmark, episodes), benchmark, episodes

    async def plays():
        here = [episode async for episode in play_async(*arguments(), max_steps=5, batch_size=2)]
        beside = list(play(*arguments(), max_steps=5, batch_size=2))
        given_up = play(*arguments(), max_steps=5, batch_size=2)
        next(given_up)
        given_up.close()
        async with aclosing(play_async(*arguments(), max_steps=5, batch_size=2)) as playing:
            await anext(playing)
        return here, beside

    here, beside = asyncio.run(plays())
    assert here == beside == list(play(*arguments(), max_steps=5, batch_size=2))
    assert all(game.closed == 1 for game in benchmark.made)


def test_an_error_reaches_a_caller_within_a_running_event_loop():
    class Broken(PushBenchmark):
        def make(self, episode):
            raise UserError("file_missing", "no such game")

    async def plays():
        list(play(ScriptedPolicy({}), Broken(), Broken().episodes(2, 0), max_steps=5, batch_size=2))

    with refused("file_missing"):
        asyncio.run(plays())


NAP = 0.05


class SleepyPolicy(ScriptedPolicy):
    """Thinks before the second turn of every episode."""

    def act(self, dialogues):
        if any(self.turns.get(dialogue.key) == 1 for dialogue in dialogues):
            time.sleep(NAP)
        return super().act(dialogues)


def times_of(policy: ScriptedPolicy, benchmark: PushBenchmark, seed: int) -> tuple[Episode, EpisodeTimes]:
    """One episode, and its times, which cover it from its beginning to its end."""
    times: Times = {}
    began, start = time.time(), time.perf_counter()
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=seed, attempt=2)
    (episode,) = play(policy, benchmark, [spec], max_steps=6, batch_size=1, times=times)
    lasted = time.perf_counter() - start
    (((key, found)),) = times.items()
    assert key == ("e", 2) == (found.id, found.attempt)
    assert found.benchmark == "push"
    assert found.began >= began
    assert min(found.before, found.after, *map(min, found.turns)) >= 0
    assert found.before + sum(map(sum, found.turns)) + found.after <= lasted
    assert len(found.turns) == len(episode.steps)
    return episode, found


def test_a_slow_reply_is_the_time_of_its_turn() -> None:
    _, times = times_of(SleepyPolicy({"e#2": [GOOD]}), PushBenchmark(), seed=3)
    assert len(times.turns) == 3
    assert times.turns[1].reply >= NAP


def test_a_slow_step_is_told_apart_from_its_reply() -> None:
    class Slow(PushGame):
        def step(self, action):
            time.sleep(NAP * (action == "pull"))
            return super().step(action)

    class Benchmark(PushBenchmark):
        def make(self, episode):
            return Slow(episode.seed)

    _, times = times_of(ScriptedPolicy({"e#2": [GOOD, "I would rather not.", BAD, GOOD]}), Benchmark(), seed=2)
    assert len(times.turns) == 4
    assert times.turns[2].step >= NAP


def test_waiting_for_a_shared_batch_is_part_of_a_reply() -> None:
    """A turn that is asked with the sleepy turn of another episode lasts as long."""
    benchmark, times = PushBenchmark(), Times()
    specs = [EpisodeSpec(id=name, benchmark="push", task="push", seed=2) for name in ("awake", "sleepy")]
    policy = SleepyPolicy({"awake": [GOOD], "sleepy": [GOOD]})
    policy.turns["awake"] = 5
    list(play(policy, benchmark, specs, max_steps=5, batch_size=2, times=times))
    assert times["awake", 0].turns[1].reply >= NAP


def test_what_is_no_turn_is_before_the_first_one_or_after_the_last() -> None:
    class Full(ScriptedPolicy):
        def act(self, dialogues):
            time.sleep(NAP)
            return [Reply("", 0, 0, turns_cut=0, context_full=True) for _ in dialogues]

    class Dying(PushBenchmark):
        def make(self, episode):
            if not self.made:
                time.sleep(NAP)
            return super().make(episode)

    full, times = times_of(Full({}), PushBenchmark(), seed=1)
    assert (full.stop, times.turns) == ("context full", [])
    assert times.after >= NAP
    again, times = times_of(ScriptedPolicy({"e#2": [reply_text("I break it.", "break"), GOOD]}), Dying(), seed=2)
    assert (again.restarts, again.success, len(times.turns)) == (1, True, 2)
    assert times.before >= NAP


def test_a_slow_play_and_a_fast_one_write_the_same_bytes_and_no_times(tmp_path):
    benchmark = PushBenchmark()
    episodes = benchmark.episodes(7, 0)
    scripts = gold_policy(benchmark, episodes).scripts
    for name, policy in (("a", ScriptedPolicy(scripts)), ("b", SleepyPolicy(scripts))):
        write_jsonl(tmp_path / name, play(policy, benchmark, episodes, max_steps=5, batch_size=3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "seconds" not in (tmp_path / "a").read_text()
    back = list(read_jsonl(tmp_path / "a", Episode))
    assert len(back) == 7
    assert all(episode.success for episode in back)


def test_an_episode_whose_simulator_dies_is_begun_again_once():
    class Fragile(PushGame):
        def step(self, action):
            result = super().step(action)
            if self.pushed == 2 and len(benchmark.made) == 1:
                raise SimulatorError("the button fell off")
            return result

    class FragileBenchmark(PushBenchmark):
        def make(self, episode):
            self.made.append(Fragile(episode.seed))
            return self.made[-1]

    benchmark = FragileBenchmark()
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=3)
    (episode,) = play(ScriptedPolicy({"e": [GOOD]}), benchmark, [spec], max_steps=6, batch_size=1)
    assert (episode.stop, episode.restarts, len(episode.steps), episode.progress) == ("solved", 1, 3, 1.0)
    assert [game.closed for game in benchmark.made] == [1, 1]


def test_a_simulator_that_keeps_dying_is_reported_as_an_error_and_the_others_play_on():
    benchmark = PushBenchmark()
    episodes = benchmark.episodes(3, 0)
    scripts = {e.id: [GOOD] for e in episodes} | {"push.1": [reply_text("I break it.", "break")]}
    played = {e.id: e for e in play(ScriptedPolicy(scripts), benchmark, episodes, max_steps=5, batch_size=3)}
    assert {name: (e.stop, e.restarts) for name, e in played.items()} == {
        "push.0": ("solved", 0),
        "push.1": ("environment error", 1),
        "push.2": ("solved", 0),
    }
    assert played["push.1"].error == "the button fell off"
    assert [game.closed for game in benchmark.made] == [1] * 4


@pytest.mark.parametrize(
    ("script", "steps", "stop"),
    [
        ([BAD], 3, "stuck"),
        (["junk"], 3, "stuck"),
        ([BAD, GOOD, BAD, reply_text("I dance.", "dance"), BAD, GOOD], 5, "stuck"),
        ([BAD, BAD, GOOD, GOOD], 4, "solved"),
        ([BAD, reply_text("I dance.", "dance"), "junk"] * 2, 6, "step limit"),
    ],
)
def test_the_third_identical_failing_action_may_end_an_episode(script, steps, stop):
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=2)
    policy = ScriptedPolicy({"e": script})
    (episode,) = play(policy, PushBenchmark(), [spec], max_steps=6, batch_size=1, stop_on_repeats=3)
    assert (len(episode.steps), episode.stop) == (steps, stop)


def test_an_agent_that_only_acts_is_asked_for_actions_only():
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=2)
    policy = ScriptedPolicy({"e": [GOOD, "Action: push", "Action: push\nAction: push", "push", "Action: push"]})
    (episode,) = play(
        policy, PushBenchmark(), [spec], max_steps=9, batch_size=1, prompting=Prompting(style="act", shots=0)
    )
    assert [(step.action, step.format_error) for step in episode.steps] == [
        ("", True),
        ("push", False),
        ("", True),
        ("", True),
        ("push", False),
    ]
    assert episode.success
    assert episode.steps[0].observation == play_prompt("act_format_error.md").rstrip("\n")
    assert "Thought" not in policy.read["e"][0].content


def test_attempts_at_one_episode_are_kept_apart():
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=2)
    attempts = [spec.model_copy(update={"attempt": number}) for number in range(3)]
    policy = ScriptedPolicy({"e": [GOOD], "e#1": [BAD], "e#2": [BAD, GOOD]})
    played = {e.attempt: e for e in play(policy, PushBenchmark(), attempts, max_steps=3, batch_size=3)}
    assert [(played[n].id, played[n].success) for n in range(3)] == [("e", True), ("e", False), ("e", True)]


def test_a_policy_that_does_not_batch_is_asked_side_by_side_and_waits_for_nobody():
    """The slow dialogue's reply is given only after the other episode has ended."""
    fast_is_over = threading.Event()

    class Slow(ScriptedPolicy):
        batched = False

        def act(self, dialogues):
            (dialogue,) = dialogues
            if dialogue.key == "push.2" and not fast_is_over.wait(timeout=20):
                raise AssertionError("the fast episode waited for the slow one")
            return super().act(dialogues)

        def forget(self, keys):
            if keys == ["push.1"]:
                fast_is_over.set()

    benchmark = PushBenchmark()
    episodes = benchmark.episodes(3, 0)[1:]
    played = list(play(Slow({e.id: [GOOD] for e in episodes}), benchmark, episodes, max_steps=5, batch_size=2))
    assert [(e.id, e.success) for e in played] == [("push.1", True), ("push.2", True)]


def test_a_policy_that_fails_in_its_thread_ends_the_evaluation_with_its_sentence():
    class Refusing(ScriptedPolicy):
        batched = False

        def act(self, dialogues):
            raise UserError("endpoint_refused", "the endpoint refuses")

    benchmark = PushBenchmark()
    with refused("endpoint_refused") as caught:
        list(play(Refusing({}), benchmark, benchmark.episodes(4, 0), max_steps=5, batch_size=4))
    assert str(caught.value) == "the endpoint refuses"
    assert [game.closed for game in benchmark.made] == [1] * 4
