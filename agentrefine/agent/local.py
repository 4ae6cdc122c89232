"""A policy that is a causal LM of transformers on this machine: batched, its KV cache kept between turns."""

import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.agent.generator import BatchedGenerator
from agentrefine.agent.policy import GeneratingPolicy
from agentrefine.agent.row_cache import with_row_attention
from agentrefine.params.evaluation import GREEDY, Sampling

CPU_GENERATORS = 2
"""Generators on a CPU. A core each is faster than two cores for one, as most operations are too small to be split."""


class LocalPolicy(GeneratingPolicy):
    """A local model that acts; at temperature 0, AgentBoard's, it takes the likeliest token each time.

    Between the turns of an episode only the new tokens are encoded, and instructions that several episodes share only
    once. Where a dialogue's tokens do not begin with those of the turn before (a reply that is tokenized otherwise when
    it is read back, a cut history), everything from the first differing token on is encoded again, so a reply never
    depends on what was kept.

    On a CPU the dialogues are split between `CPU_GENERATORS` threads, which share the cores. Their number does not
    follow the machine: the last bits of a reply's probabilities depend on who else is in the batch.

    Args:
        model: any decoder-only model of transformers that takes attention implementations; it is not changed.
        tokenizer: its tokenizer, with a chat template.
        name: the model's name in reports.
        max_new_tokens: most tokens of one reply; a longer one is cut there.
        sampling: how tokens are drawn.
        seed: of the draws. A reply's draws depend on it, the dialogue's key and its turn, not on who else is answered.

    Raises:
        UserError: the model computes attention in a way of its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        count = CPU_GENERATORS if model.device.type == "cpu" else 1
        shared = with_row_attention(model)
        # A tokenizer serves one thread at a time.
        generators = [
            BatchedGenerator(shared, own, max_new_tokens, sampling, seed)
            for own in (_copy_without_limit(tokenizer) for _ in range(count))
        ]
        cores = max(1, torch.get_num_threads() // count)
        super().__init__(
            name, generators, ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(cores,))
        )


def _copy_without_limit(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that does not warn of long dialogues, as the generator cuts them to the model's context itself."""
    copy = deepcopy(tokenizer)
    copy.model_max_length = sys.maxsize
    return copy
