"""Episodes per second of the player, against one episode at a time that encodes its whole history at every turn.

    OMP_WAIT_POLICY=PASSIVE python -m perf.evaluation --model models/refinement --episodes 50 --rounds 3

The slow way is AgentBoard's: one episode after the other, and each turn `generate` gets the whole dialogue anew. Both
play the same episodes of the worlds and BabyAI by the same rules; how many of the replies are equal is printed. Medians
over the rounds, in one run. Then, for every simulator that is installed, the most memory that one worker has held.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.agent.episode import Episode
from agentrefine.agent.local import LocalPolicy
from agentrefine.agent.play import play
from agentrefine.agent.policy import Dialogue, Policy, Reply
from agentrefine.agent.reference import ChancePolicy
from agentrefine.agent.timed import TimedBenchmark
from agentrefine.benchmarks.base import EpisodeSpec
from agentrefine.benchmarks.catalogue import benchmark, selected
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.params import load_params
from agentrefine.params.evaluation import INSTALLED
from agentrefine.tuning.models import load_tuned
from agentrefine.tuning.rendering import end_of_turn_id, prompt_ids

BENCHMARKS = ("worlds_layouts", "babyai")


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


def played(policy: Policy, name: str, episodes: Sequence[EpisodeSpec], steps: int, at_once: int) -> list[Episode]:
    """Episodes in the order of their ids."""
    found = play(policy, benchmark(name), episodes, max_steps=steps, batch_size=at_once)
    return sorted(found, key=lambda episode: episode.id)


def worker_memory() -> None:
    """Play an episode of each simulator with random actions, and print the peak memory of its worker."""
    everything = load_params().evaluation.model_copy(update={"benchmarks": INSTALLED})
    for name, found in selected(everything).items():
        if isinstance(found, SimulatorBenchmark):
            timed = TimedBenchmark(found)
            played = play(ChancePolicy(timed, 0), timed, found.episodes(2, 7), max_steps=30, batch_size=1)
            steps = sum(len(episode.steps) for episode in played)
            print(f"{name:15} one worker: {found.workers.peak_memory() / 1e6:.0f} MB at the most, {steps} steps")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/refinement"))
    parser.add_argument("--episodes", type=int, default=50, help="per benchmark")
    parser.add_argument("--at-once", type=int, default=50, help="episodes that share a batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    loaded = load_tuned(arguments.model)
    print(f"{sum(p.numel() for p in loaded.model.parameters()):,} parameters, {torch.get_num_threads()} threads")
    for name in BENCHMARKS:
        episodes = benchmark(name).episodes(arguments.episodes, 7)
        seconds: dict[str, list[float]] = {"one by one": [], "batched": []}
        replies: dict[str, list[str]] = {}
        for _ in range(arguments.rounds):
            for way in seconds:
                policy: Policy = (
                    OneByOne(loaded.model, loaded.tokenizer, arguments.new_tokens)
                    if way == "one by one"
                    else LocalPolicy(loaded.model, loaded.tokenizer, name=way, max_new_tokens=arguments.new_tokens)
                )
                at_once = 1 if way == "one by one" else arguments.at_once
                began = time.perf_counter()
                found = played(policy, name, episodes, arguments.steps, at_once)
                seconds[way].append(time.perf_counter() - began)
                replies[way] = [step.reply for episode in found for step in episode.steps]
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        same = sum(a == b for a, b in zip(*replies.values(), strict=False))
        for way, median in medians.items():
            print(
                f"{name:15} {way:11} {len(episodes) / median:6.2f} episodes/s ({median:.1f} s, "
                f"{min(seconds[way]):.1f} to {max(seconds[way]):.1f}), {len(replies[way])} turns"
            )
        ratio = medians["one by one"] / medians["batched"]
        print(f"{name:15} {ratio:.1f} times as fast; {same} of {len(replies['batched'])} replies are the same")
    worker_memory()


if __name__ == "__main__":
    main()
