"""What one thread of a local policy does: it answers its dialogues as a batch, with a cache of its own."""

from collections.abc import Sequence
from itertools import takewhile
from random import Random

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.agent.policy import Dialogue, Reply, turns_that_can_be_cut, without_oldest_turns
from agentrefine.agent.row_cache import Row, RowCache
from agentrefine.files import short_hash
from agentrefine.params.evaluation import Sampling
from agentrefine.tuning.rendering import end_of_turn_id, prompt_ids

PADDING_LIMIT = 1.5
"""Rows are fed together while the padded batch has at most this many times the tokens that it needs."""

READ_LIMIT = 512
"""Tokens of one row that are read at once: bounds the memory of a long history's attention mask."""


class Lane:
    """Dialogues that share a batch and a cache. The arguments are those of `LocalPolicy`."""

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
        self._tokenizer = tokenizer
        self._stop_ids = _stop_ids(model, tokenizer)
        self._context = _context_length(model)
        self._cache = RowCache(model)

    @torch.inference_mode()
    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, in their order."""
        prompts = [self._prompt(dialogue) for dialogue in dialogues]
        fitting = {dialogue.key: ids for dialogue, (ids, _) in zip(dialogues, prompts, strict=True) if ids}
        self._to_front(list(fitting))
        self._read(fitting)
        turns = {dialogue.key: len(dialogue.messages) for dialogue in dialogues}
        dice = {key: Random(short_hash("reply", str(self._seed), key, str(turns[key]))) for key in fitting}
        written = self._write({key: ids[-1] for key, ids in fitting.items()}, dice)
        return [
            Reply(
                text=self._tokenizer.decode(
                    written[dialogue.key], skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
                prompt_tokens=len(ids),
                completion_tokens=len(written[dialogue.key]),
                turns_cut=turns_cut,
                cut=len(written[dialogue.key]) >= self.max_new_tokens,
            )
            if ids
            else Reply(text="", prompt_tokens=0, completion_tokens=0, turns_cut=turns_cut, context_full=True)
            for dialogue, (ids, turns_cut) in zip(dialogues, prompts, strict=True)
        ]

    def forget(self, key: str) -> None:
        """An episode is over: its row is free."""
        for row in self._cache.rows:
            if row.key == key:
                row.key, row.ids = None, []

    def _prompt(self, dialogue: Dialogue) -> tuple[list[int], int]:
        """The tokens to answer and how many of the oldest turns they leave out; no tokens when nothing fits."""
        for turns_cut in range(turns_that_can_be_cut(dialogue.messages) + 1):
            ids = prompt_ids(self._tokenizer, without_oldest_turns(dialogue.messages, turns_cut))
            if len(ids) + self.max_new_tokens <= self._context:
                return ids, turns_cut
        return [], turns_that_can_be_cut(dialogue.messages)

    def _to_front(self, keys: list[str]) -> None:
        """Give each dialogue a row and bring these rows to the front, in any order."""
        rows = self._cache.rows
        known = {row.key for row in rows}
        for key in keys:
            if key not in known:
                free = next((row for row in rows if row.key is None), None)
                if free is None:
                    rows.append(free := Row())
                free.key = key
        wanted = set(keys)
        misplaced = [i for i, row in enumerate(rows) if row.key in wanted and i >= len(keys)]
        for i in range(len(keys)):
            if rows[i].key not in wanted:
                self._cache.swap(i, misplaced.pop())

    def _read(self, prompts: dict[str, list[int]]) -> None:
        """Encode what each row does not hold yet, all but the last token: that one begins the writing."""
        pending: list[tuple[int, list[int]]] = []
        for index, row in enumerate(self._cache.rows[: len(prompts)]):
            assert row.key is not None
            ids = prompts[row.key]
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(row.ids, ids[:-1], strict=False)))
            del row.ids[same:]
            if same < len(ids) - 1:
                pending.append((index, ids[same:-1]))
        pending.sort(key=lambda item: len(item[1]))
        while pending:
            longest = len(pending[-1][1])
            start, needed = len(pending) - 1, longest
            while start > 0 and longest * (len(pending) - start + 1) <= PADDING_LIMIT * (
                needed + len(pending[start - 1][1])
            ):
                start -= 1
                needed += len(pending[start][1])
            group = sorted(pending[start:])
            for begin in range(0, longest, READ_LIMIT):
                left = [(index, chunk[begin : begin + READ_LIMIT]) for index, chunk in group if len(chunk) > begin]
                self._cache.forward([index for index, _ in left], [chunk for _, chunk in left])
            del pending[start:]

    def _write(self, last_tokens: dict[str, int], dice: dict[str, Random]) -> dict[str, list[int]]:
        """Continuations by dialogue; a finished row leaves the batch."""
        written: dict[str, list[int]] = {key: [] for key in last_tokens}
        rows = self._cache.rows
        following = dict(last_tokens)
        active = len(last_tokens)
        while active:
            keys = [row.key or "" for row in rows[:active]]
            logits = self._cache.forward(list(range(active)), [[following[key]] for key in keys])
            for key, token in zip(keys, chosen(logits, self._sampling, [dice[key] for key in keys]), strict=True):
                following[key] = token
                if token not in self._stop_ids:
                    written[key].append(token)
            for index in reversed(range(active)):
                key = keys[index]
                if following[key] in self._stop_ids or len(written[key]) >= self.max_new_tokens:
                    active -= 1
                    self._cache.swap(index, active)
        return written


def chosen(logits: torch.Tensor, sampling: Sampling, dice: Sequence[Random]) -> list[int]:
    """One token a row.

    Args:
        logits: shape [rows, vocabulary].
        sampling: at temperature 0 the likeliest token; else a draw from the likeliest ones that together have `top_p`.
        dice: one generator a row, each asked for one number if there is a draw.
    """
    if sampling.temperature == 0:
        likeliest: list[int] = logits.argmax(dim=-1).tolist()
        return likeliest
    shares, tokens = torch.softmax(logits.cpu().double() / sampling.temperature, dim=-1).sort(
        descending=True, stable=True
    )
    before = shares.cumsum(dim=-1) - shares
    reached = torch.where(before < sampling.top_p, shares, 0.0).cumsum(dim=-1)
    drawn = torch.tensor([die.random() for die in dice], dtype=reached.dtype)
    places = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
    picked: list[int] = tokens.gather(1, places)[:, 0].tolist()
    return picked


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a turn: the chat template's, and those of the model's own generation settings."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*several, end_of_turn_id(tokenizer)) if token is not None)


def _context_length(model: PreTrainedModel) -> int:
    """Most tokens of prompt and reply. Within one attention window a windowed model attends to everything."""
    window = getattr(model.config, "sliding_window", None)
    length: int = model.config.max_position_embeddings
    return min(length, window) if window else length
