"""A policy that is a causal LM of transformers on this machine: batched, its KV cache kept between turns."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.evaluation.policy import Dialogue, GeneratingPolicy, Reply, turns_that_can_be_cut, without_oldest_turns
from agentrefine.evaluation.row_cache import Feed, Row, RowCache, with_row_attention
from agentrefine.files import short_hash
from agentrefine.game.conversation import Message
from agentrefine.params.evaluation import GREEDY, Sampling
from agentrefine.tuning.chat_template import end_of_turn_id, prompt_ids

READ_LIMIT = 512
"""Most tokens of prompts that one step reads, so that replies that are being written do not wait for long."""

MIN_PREFIX = 32
"""Tokens from which on a common beginning is read once for all dialogues that have it."""

MIN_SHARED_PREFIX = 256
"""Tokens from which on it is also stored once; a shorter one is copied, as a second attention would cost more."""

MAX_PREFIXES = 32
"""Prefixes that are kept although no dialogue uses them."""


@dataclass(eq=False)
class _Writing:
    """A reply that is being written: the tokens to read before its next one, and those that it has."""

    key: str
    row: Row
    unread: list[int]
    prompt_tokens: int
    turns_cut: int
    rng: Random
    written: list[int] = field(default_factory=list)


class BatchedGenerator:
    """A `ReplyGenerator` (`evaluation/policy.py`) with a local model.

    Each step reads one token of every reply that is being written, and up to `READ_LIMIT` tokens of new prompts.

    Args:
        model: a model of `with_row_attention`.
        tokenizer: its tokenizer, of which a copy is used, as one serves one thread at a time.
        max_new_tokens, sampling, seed: as in `LocalPolicy`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._seed = seed
        self._tokenizer = deepcopy(tokenizer)
        # No warnings of long dialogues: they are cut to the model's context here.
        self._tokenizer.model_max_length = sys.maxsize
        # The tokens that end a turn: the chat template's, and those of the model's own generation settings.
        configured = model.generation_config.eos_token_id
        stops = [*(configured if isinstance(configured, list) else [configured]), end_of_turn_id(tokenizer)]
        self._stop_ids = frozenset(token for token in stops if token is not None)
        # Within one attention window a windowed model attends to everything.
        window = getattr(model.config, "sliding_window", None)
        positions: int = model.config.max_position_embeddings
        self._context = min(positions, window or positions)
        self._cache = RowCache(model)
        self._rows: dict[str, Row] = {}
        self._prefixes: dict[tuple[str, ...], Row | None] = {}
        self._writing: list[_Writing] = []
        self._unanswered: list[tuple[str, Reply]] = []

    @torch.inference_mode()
    def add(self, dialogue: Dialogue) -> None:
        """Begin a reply; what the dialogue has in common with what is stored is not read again."""
        ids, turns_cut = self._prompt(dialogue)
        if not ids:
            self._unanswered.append((dialogue.key, Reply("", 0, 0, turns_cut, context_full=True)))
            return
        row = self._row(dialogue, ids)
        own = ids[row.start :]
        # The last token is always read, as its logits begin the reply.
        held = len(_common_beginning(row.ids, own[:-1]))
        del row.ids[held:]
        rng = Random(short_hash("reply", str(self._seed), dialogue.key, str(len(dialogue.messages))))
        self._writing.append(_Writing(dialogue.key, row, own[held:], len(ids), turns_cut, rng))

    @torch.inference_mode()
    def step(self) -> list[tuple[str, Reply]]:
        """Extend every reply by at most one token; returns those that are finished, each with its dialogue's key."""
        finished, self._unanswered = self._unanswered, []
        fed: list[tuple[_Writing, Feed]] = []
        room = READ_LIMIT
        for writing in self._writing:
            if len(writing.unread) == 1 or room:
                read = writing.unread[: max(1, room)]
                room -= len(read) if len(writing.unread) > 1 else 0
                del writing.unread[: len(read)]
                fed.append((writing, Feed(writing.row, read, predict=not writing.unread)))
        if not fed:
            return finished
        logits = self._cache.forward([feed for _, feed in fed])
        extended = [writing for writing, feed in fed if feed.predict]
        tokens = sample_tokens(logits, self._sampling, [writing.rng for writing in extended])
        for writing, token in zip(extended, tokens, strict=True):
            writing.unread = [token]
            ended, ids = token in self._stop_ids, writing.written
            if not ended:
                ids.append(token)
            if ended or len(ids) >= self.max_new_tokens:
                self._writing.remove(writing)
                text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                reply = Reply(text, writing.prompt_tokens, len(ids), writing.turns_cut, cut=not ended)
                finished.append((writing.key, reply))
        return finished

    def forget(self, key: str) -> None:
        """An episode is over: free its row."""
        self._writing = [writing for writing in self._writing if writing.key != key]
        if key in self._rows:
            self._cache.remove_row(self._rows.pop(key))

    def _prompt(self, dialogue: Dialogue) -> tuple[list[int], int]:
        """The tokens to answer and how many of the oldest turns they leave out; no tokens when nothing fits."""
        for turns_cut in range(turns_that_can_be_cut(dialogue.messages) + 1):
            ids = prompt_ids(self._tokenizer, without_oldest_turns(dialogue.messages, turns_cut))
            if len(ids) + self.max_new_tokens <= self._context:
                return ids, turns_cut
        return [], turns_that_can_be_cut(dialogue.messages)

    def _row(self, dialogue: Dialogue, ids: list[int]) -> Row:
        """The dialogue's row; a new one begins with the prefix of `ids`, or has it as its own prefix."""
        prefix = self._prefix(dialogue.messages)
        if prefix and ids[: len(prefix.ids)] != prefix.ids:
            prefix = None
        shared = prefix if prefix and len(prefix.ids) >= MIN_SHARED_PREFIX else None
        row = self._rows.get(dialogue.key)
        if row is None or row.prefix is not shared:
            self.forget(dialogue.key)
            row = self._cache.copy_row(prefix) if prefix and not shared else self._cache.add_row(shared)
            self._rows[dialogue.key] = row
        return row

    def _prefix(self, messages: Sequence[Message]) -> Row | None:
        """The tokens that all dialogues with the same instructions and acknowledgement begin with, read.

        They depend on these two messages alone, not on the dialogues that are there.
        """
        beginning = list(messages[:2])
        key = tuple(message.content for message in beginning)
        if key in self._prefixes:
            # Moved to the end: the one that was used longest ago is first.
            self._prefixes[key] = self._prefixes.pop(key)
            return self._prefixes[key]
        goals = (Message(role="user", content=text) for text in ("a", "?"))
        ids = _common_beginning(*(prompt_ids(self._tokenizer, [*beginning, goal]) for goal in goals))
        if not MIN_PREFIX <= len(ids) <= self._context - self.max_new_tokens:
            self._prefixes[key] = None
            return None
        in_use = {id(row.prefix) for row in self._rows.values()}
        unused = [(name, row) for name, row in self._prefixes.items() if row and id(row) not in in_use]
        for name, row in unused[: max(0, len(unused) - MAX_PREFIXES + 1)]:
            self._cache.remove_row(row)
            del self._prefixes[name]
        row = self._prefixes[key] = self._cache.add_row()
        for begin in range(0, len(ids), READ_LIMIT):
            self._cache.forward([Feed(row, ids[begin : begin + READ_LIMIT], predict=False)])
        return row


def _common_beginning(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def sample_tokens(logits: torch.Tensor, sampling: Sampling, rngs: Sequence[Random]) -> list[int]:
    """One token a row.

    Args:
        logits: shape [rows, vocabulary].
        sampling: at temperature 0 the likeliest token; else a draw from the likeliest ones that together have `top_p`.
        rngs: one generator a row, each asked for one number if there is a draw.
    """
    if sampling.temperature == 0:
        likeliest: list[int] = logits.argmax(dim=-1).tolist()
        return likeliest
    shares, tokens = torch.softmax(logits.cpu().double() / sampling.temperature, dim=-1).sort(
        descending=True, stable=True
    )
    before = shares.cumsum(dim=-1) - shares
    reached = torch.where(before < sampling.top_p, shares, 0.0).cumsum(dim=-1)
    drawn = torch.tensor([rng.random() for rng in rngs], dtype=reached.dtype)
    places = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
    picked: list[int] = tokens.gather(1, places)[:, 0].tolist()
    return picked


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
        generators = [BatchedGenerator(shared, tokenizer, max_new_tokens, sampling, seed) for _ in range(count)]
        cores = max(1, torch.get_num_threads() // count)
        threads = [ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(cores,)) for _ in range(count)]
        super().__init__(name, generators, threads)
