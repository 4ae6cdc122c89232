"""A KV cache whose rows have their own lengths and may begin with tokens that are stored once for many of them.

All tokens of a forward pass, whatever rows they belong to, go through the model as one sequence without padding. Only
attention knows rows. It is registered with transformers as the implementation `ATTENTION`, so any decoder-only model
that supports attention implementations works unchanged.

A row attends to two parts: the prefix that it shares and its own tokens. All rows of a prefix read it in one matrix
product; the two partial results are merged by their log-sum-exp, which gives the softmax over both parts ("cascade
attention").
"""

import heapq
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from transformers import AttentionInterface, PreTrainedModel

from agentrefine.errors import UserError

ATTENTION = "agentrefine_rows"
BLOCK = 64
GROWTH = 1.5
"""Capacity grows by this factor and to a multiple of `BLOCK` positions, so that it is seldom copied."""


@dataclass(eq=False)
class Row:
    """What the row in a slot of the storage holds: `ids`, its own tokens, after those of its prefix if it has one."""

    slot: int
    prefix: "Row | None" = None
    ids: list[int] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The position of its first own token."""
        return len(self.prefix.ids) if self.prefix else 0


class Feed(NamedTuple):
    """The tokens, at least one, that a row reads next; `predict`: the logits after the last of them are wanted."""

    row: Row
    ids: list[int]
    predict: bool = True


class RowCache:
    """Keys and values of many dialogues, one row each, with the forward pass that fills it.

    Args:
        model: a model of `with_row_attention`.
        batched: one operation for all rows that read one token, over rows padded to the longest, instead of one
            operation a row. Default: on GPUs, where starting an operation costs more than the padding.
    """

    def __init__(self, model: PreTrainedModel, batched: bool | None = None) -> None:
        self.model = model
        self._batched = model.device.type != "cpu" if batched is None else batched
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._rows: dict[int, Row] = {}
        self._free: list[int] = []
        self._capacity = 0

    def add_row(self, prefix: Row | None = None) -> Row:
        """A new, empty row; a prefix must hold all its tokens before such a row is fed."""
        slot = heapq.heappop(self._free) if self._free else len(self._rows)
        self._rows[slot] = Row(slot, prefix)
        return self._rows[slot]

    def copy_row(self, source: Row) -> Row:
        """A new row that begins with what a row without prefix holds."""
        row = self.add_row()
        for layers in (self._keys, self._values):
            for number, stored in enumerate(layers):
                layers[number] = self._grow(stored)
                layers[number][row.slot, :, : len(source.ids)] = stored[source.slot, :, : len(source.ids)]
        row.ids = list(source.ids)
        return row

    def remove_row(self, row: Row) -> None:
        """Free a row's place. No other row may have it as its prefix."""
        del self._rows[row.slot]
        heapq.heappush(self._free, row.slot)

    def forward(self, feeds: Sequence[Feed]) -> torch.Tensor:
        """Feed rows their next tokens.

        Args:
            feeds: of distinct rows, at least one.

        Returns:
            The logits after each feed with `predict`, in their order, shape [feeds with `predict`, vocabulary].
        """
        device = self.model.device
        placed = sorted(feeds, key=lambda feed: feed.row.prefix.slot if feed.row.prefix else -1)
        longest = max(len(feed.row.ids) + len(feed.ids) for feed in placed)
        if longest > self._capacity:
            self._capacity = -(-max(longest, int(GROWTH * self._capacity)) // BLOCK) * BLOCK
        plan = _Plan(placed, self._batched, self.model.dtype, device)
        last = [plan.last[feed.row] for feed in feeds if feed.predict]
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([[token for feed in placed for token in feed.ids]], device=device),
            position_ids=plan.positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(last, dtype=torch.long, device=device),
            attend=partial(self._attend, plan),
        ).logits[0]
        for feed in placed:
            feed.row.ids.extend(feed.ids)
        return logits

    def _attend(
        self, plan: "_Plan", layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """One layer's attention in a forward pass: store the new keys and values, and read all that each token may see.

        The first pass goes through the layers in order. Shapes: `query` [heads, tokens, width], `key` and `value` [KV
        heads, tokens, width], the result [tokens, heads, width of a value].
        """
        keys = self._store(self._keys, layer, key, plan)
        values = self._store(self._values, layer, value, plan)
        queries = query.transpose(0, 1).reshape(query.shape[1], key.shape[0], -1, query.shape[2])
        parts = []
        if plan.singles is not None:
            singles, rows, mask = plan.singles
            slots, _, _, longest = mask.shape
            placed = queries.new_zeros(slots, *queries.shape[1:])
            placed[rows] = queries[singles]
            read = slice(slots), slice(None), slice(longest)
            found = _softmax_attention(placed, keys[read], values[read], mask, scale)
            parts.append((found[0][rows], found[1][rows]))
        parts += [_attend_span(queries, keys, values, span, scale) for span in plan.spans]
        outputs, weights = (torch.cat(part) for part in zip(*parts, strict=True))
        if plan.order is not None:
            outputs, weights = outputs[plan.order], weights[plan.order]
        for group in plan.groups:
            tokens = slice(group.begin, group.end)
            before, before_weight = _attend_span(queries, keys, values, group, scale)
            own_share = torch.sigmoid(weights[tokens] - before_weight)[..., None]
            outputs[tokens] = torch.lerp(before.float(), outputs[tokens].float(), own_share).to(outputs.dtype)
        return outputs.flatten(1, 2)

    def _store(self, layers: list[torch.Tensor], layer: int, new: torch.Tensor, plan: "_Plan") -> torch.Tensor:
        """Write a layer's new keys or values, shape [KV heads, tokens, width]; all of them are returned, by slot."""
        if layer == len(layers):
            layers.append(new.new_empty(0, new.shape[0], 0, new.shape[2]))
        stored = layers[layer] = self._grow(layers[layer])
        stored[plan.slots, :, plan.places] = new.transpose(0, 1)
        return stored

    def _grow(self, stored: torch.Tensor) -> torch.Tensor:
        """A layer's keys or values with room for all rows and the present capacity."""
        slots = max(self._rows) + 1
        if stored.shape[0] >= slots and stored.shape[2] >= self._capacity:
            return stored
        # Unwritten memory is not read without `batched`, so that only what is written takes room.
        make = stored.new_zeros if self._batched else stored.new_empty
        room = stored.shape[0] if stored.shape[0] >= slots else max(slots, int(GROWTH * stored.shape[0]))
        larger = make(room, stored.shape[1], self._capacity, stored.shape[3])
        for row in self._rows.values():
            if row.ids:
                larger[row.slot, :, : len(row.ids)] = stored[row.slot, :, : len(row.ids)]
        return larger


class _Span(NamedTuple):
    """Tokens `begin` to `end` of a pass, which attend to the first `length` positions of a slot.

    `mask`, shape [tokens, positions], is added to their scores; None: each attends to all positions.
    """

    begin: int
    end: int
    slot: int
    length: int
    mask: torch.Tensor | None = None


class _Plan:
    """Where the tokens of one forward pass lie and what they attend to, of feeds in the order of their prefixes.

    Attributes:
        slots, places, positions: of each token its row's slot, its place among the row's own tokens, and its place
            with the prefix counted; shape [tokens].
        last: of each row its last token in the pass.
        spans: what is attended to row by row.
        singles: what is attended to in one operation, by the tokens that are their row's only one: where each lies in
            the pass, its row's slot, and what is added to the scores of the first slots, shape [slots, 1, 1, longest
            row]. None: nothing.
        order: puts the results of `singles` and then `spans` into the order of the tokens; None: they are.
        groups: what is attended to before the rows' own tokens.
    """

    def __init__(self, feeds: Sequence[Feed], batched: bool, dtype: torch.dtype, device: torch.device) -> None:
        slots: list[int] = []
        places: list[int] = []
        positions: list[int] = []
        spans: list[_Span] = []
        self.last: dict[Row, int] = {}
        prefixes: dict[Row, list[_Span]] = {}
        for feed in feeds:
            row, begin, held, count = feed.row, len(slots), len(feed.row.ids), len(feed.ids)
            slots += [row.slot] * count
            places += range(held, held + count)
            positions += range(row.start + held, row.start + held + count)
            mask = None
            if count > 1:
                hidden = torch.full((count, held + count), torch.finfo(dtype).min, dtype=dtype, device=device)
                mask = hidden.triu(held + 1)  # a token sees those before it and itself
            spans.append(_Span(begin, begin + count, row.slot, held + count, mask))
            self.last[row] = begin + count - 1
            if row.prefix:
                prefixes.setdefault(row.prefix, []).append(spans[-1])
        self.slots = torch.tensor(slots, device=device)
        self.places = torch.tensor(places, device=device)
        self.positions = torch.tensor(positions, device=device)
        self.groups = [
            _Span(members[0].begin, members[-1].end, prefix.slot, len(prefix.ids))
            for prefix, members in prefixes.items()
        ]
        alone = [span for span in spans if batched and span.mask is None]
        self.spans = [span for span in spans if span not in alone] if alone else spans
        self.singles = None
        self.order = None
        if alone:
            begins, rows, stored = (
                torch.tensor(found, device=device)
                for found in zip(*((span.begin, span.slot, span.length) for span in alone), strict=True)
            )
            lengths = torch.zeros(int(rows.max()) + 1, dtype=torch.long, device=device)
            lengths[rows] = stored
            hidden = torch.arange(int(lengths.max()), device=device) >= lengths[:, None, None, None]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
            self.singles = begins, rows, mask
            computed = [span.begin for span in alone] + [t for span in self.spans for t in range(span.begin, span.end)]
            self.order = torch.tensor(computed, device=device).argsort()


def _attend_span(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: _Span, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention of a span's tokens: the outputs, and the log-sum-exp of the scores.

    Shapes: `queries`, those of the pass, and the outputs [tokens, KV heads, heads of each, width]; the log-sum-exp the
    same without width; `keys` and `values`, all that is stored, [slots, KV heads, positions, width].
    """
    queries = queries[span.begin : span.end]
    keys, values = (stored[span.slot : span.slot + 1, :, : span.length] for stored in (keys, values))
    tokens, kv_heads, heads, width = queries.shape
    if tokens == 1:
        return _softmax_attention(queries, keys, values, span.mask, scale)
    # The heads of a KV head are further tokens of it, so that nothing is repeated.
    folded = queries.permute(1, 2, 0, 3).reshape(1, kv_heads, heads * tokens, width)
    folded_mask = None if span.mask is None else span.mask.repeat(heads, 1)
    outputs, weights = _softmax_attention(folded, keys, values, folded_mask, scale)
    return (
        outputs.reshape(kv_heads, heads, tokens, -1).permute(2, 0, 1, 3),
        weights.reshape(kv_heads, heads, tokens).permute(2, 0, 1),
    )


def _softmax_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of shapes [rows, heads, tokens, width], with the log-sum-exp of the scores in fp32."""
    if queries.device.type == "cpu" and keys.shape[-1] == values.shape[-1]:
        # The operator behind torch's `scaled_dot_product_attention`, which does not hand out the log-sum-exp.
        fused: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, attn_mask=mask, scale=scale
        )
        return fused
    scores = torch.matmul(queries, keys.transpose(2, 3)).float() * scale
    if mask is not None:
        scores += mask
    weights = scores.logsumexp(dim=-1)
    return torch.matmul((scores - weights[..., None]).exp_().to(values.dtype), values), weights


def _row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    attend: Callable[..., torch.Tensor],
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """An attention layer as transformers calls it, with tensors of shape [1, heads, tokens, width]."""
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise _unsupported(type(module).__name__)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(module.layer_idx, query[0], key[0], value[0], scale)[None], None


AttentionInterface.register(ATTENTION, _row_attention)


def with_row_attention(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model for `RowCache`. It shares the weights; the model itself stays as it is.

    Raises:
        UserError: the model computes attention in a way of its own.
    """
    if not model._supports_attention_backend:
        raise _unsupported(type(model).__name__)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = deepcopy(model, shared)
    copied.set_attn_implementation(ATTENTION)
    return copied.eval()


def _unsupported(name: str) -> UserError:
    message = (
        f"{name}: the player does not know this model's kind of attention; serve the model (for example with "
        "`transformers serve`) and name the server in evaluation.endpoints."
    )
    return UserError("model_unusable", message, name=name)
