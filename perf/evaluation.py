"""Turns per second of the player, against one episode at a time that encodes its whole history at every turn.

    python -m perf.evaluation --model models/refinement --episodes 50 --slow-episodes 50 --rounds 3
    python -m perf.evaluation --model MODEL --dtype bf16 --episodes 50 --slow-episodes 2

The slow way is AgentBoard's: one episode after the other, and each turn `generate` gets the whole dialogue anew. It
plays the first of the player's episodes by the same rules, with each number of threads of `--slow-threads`; the fastest
counts. The ratio is that of the seconds per turn. Equal replies are counted up to the first difference in an episode,
after which the two ways play different games. `agentrefine.evaluation.gold_check` measures the memory of simulators.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.benchmarks.base import EpisodeSpec
from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.local import LocalPolicy
from agentrefine.evaluation.policy import Dialogue, Policy, Reply
from agentrefine.evaluation.rollout import play
from agentrefine.tuning.chat_template import end_of_turn_id, prompt_ids
from agentrefine.tuning.models import load_tuned

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class OneByOne:
    """Answers with `generate`, from the whole dialogue each time."""

    batched = True

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
        self.name = "one by one"
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, one after the other."""
        return [self._reply(dialogue) for dialogue in dialogues]

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing to end."""

    def _reply(self, dialogue: Dialogue) -> Reply:
        ids = torch.tensor([prompt_ids(self._tokenizer, dialogue.messages)], device=self._model.device)
        stop = end_of_turn_id(self._tokenizer)
        written = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop,
        )[0, ids.shape[1] :]
        text = self._tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(text, ids.shape[1], len(written))


class Timing(NamedTuple):
    """One way through some episodes: what was played, and the seconds on the clock and of the processor."""

    episodes: list[Episode]
    seconds: float
    processor_seconds: float

    @property
    def turns(self) -> int:
        """Replies in all episodes."""
        return sum(len(episode.steps) for episode in self.episodes)

    def line(self) -> str:
        """The measurement in words."""
        steps = [step for episode in self.episodes for step in episode.steps]
        prompt = statistics.mean(step.prompt_tokens for step in steps)
        reply = statistics.mean(step.completion_tokens for step in steps)
        return (
            f"{self.seconds / self.turns * 1000:6.0f} ms a turn on the clock, "
            f"{self.processor_seconds / self.turns * 1000:6.0f} of processor time; {len(self.episodes)} episodes, "
            f"{self.turns} turns, {prompt:.0f} tokens of prompt and {reply:.0f} of reply"
        )


def timed_play(policy: Policy, name: str, episodes: Sequence[EpisodeSpec], steps: int, at_once: int) -> Timing:
    """Play, and measure."""
    began, began_processor = time.perf_counter(), time.process_time()
    found = list(play(policy, benchmark(name), episodes, max_steps=steps, batch_size=at_once))
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - began_processor
    policy.close()
    return Timing(sorted(found, key=lambda episode: episode.id), seconds, processor_seconds)


def equal_replies(slow: Sequence[Episode], fast: Sequence[Episode]) -> tuple[int, int]:
    """How many replies are equal, of those up to the first difference in each episode."""
    by_id = {episode.id: episode for episode in fast}
    equal = compared = 0
    for episode in slow:
        for one, other in zip(episode.steps, by_id[episode.id].steps, strict=False):
            compared += 1
            if one.reply != other.reply:
                break
            equal += 1
    return equal, compared


def processor() -> str:
    """The processor's name and what it can do, as Linux and torch say."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model", "flags"))]
    found = {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in names)}
    extras = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in found.get("flags", "").split()]
    name = f"{found.get('model name', platform.processor())}, model {found.get('model', '?')}"
    return f"{name}: {', '.join([torch.backends.cpu.get_cpu_capability(), *extras])}"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/refinement"), help="any model's folder")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: as they are loaded")
    parser.add_argument("--benchmarks", nargs="+", default=["worlds_layouts", "babyai"])
    parser.add_argument("--episodes", type=int, default=50, help="per benchmark")
    parser.add_argument("--slow-episodes", type=int, default=5, help="that the slow way plays of them")
    parser.add_argument("--slow-threads", type=int, nargs="+", help="default: 1 and all")
    parser.add_argument("--at-once", type=int, default=50, help="episodes that share a batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1, help="the medians count")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    loaded = load_tuned(arguments.model)
    model = loaded.model.to(DTYPES[arguments.dtype]) if arguments.dtype else loaded.model
    print(f"{processor()}; {os.cpu_count()} cores, {threads} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{arguments.model}: {model.num_parameters():,} parameters, {model.dtype}, on {model.device}")
    for name in arguments.benchmarks:
        episodes = benchmark(name).episodes(arguments.episodes, 7)
        rounds: dict[str, list[Timing]] = {}
        for _ in range(arguments.rounds):
            fast = LocalPolicy(model, loaded.tokenizer, name="player", max_new_tokens=arguments.new_tokens)
            rounds.setdefault("player", []).append(timed_play(fast, name, episodes, arguments.steps, arguments.at_once))
            for count in sorted(set(arguments.slow_threads or (1, threads))):
                torch.set_num_threads(count)
                slow = OneByOne(model, loaded.tokenizer, arguments.new_tokens)
                rounds.setdefault(f"one by one, {count} threads", []).append(
                    timed_play(slow, name, episodes[: arguments.slow_episodes], arguments.steps, 1)
                )
            torch.set_num_threads(threads)
        per_turn = {}
        for way, timings in rounds.items():
            seconds = [timing.seconds / timing.turns for timing in timings]
            per_turn[way] = statistics.median(seconds)
            spread = f" ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})" if len(seconds) > 1 else ""
            print(f"{name}, {way}: {timings[-1].line()}{spread}", flush=True)
        player = per_turn.pop("player")
        best = min(per_turn, key=per_turn.__getitem__)
        equal, compared = equal_replies(rounds[best][-1].episodes, rounds["player"][-1].episodes)
        print(f"{name}: {per_turn[best] / player:.1f} times as fast as {best}; {equal} of {compared} replies are equal")
        print(f"{name}: load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
