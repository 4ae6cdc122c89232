"""A data set's samples as rendered rows on disk, streamed: memory does not grow with the number of samples."""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import get_args

import torch
from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Message, Sample, opening, reply_text
from agentrefine.params.tuning import PLAIN, Loss
from agentrefine.tuning.chat_template import (
    OTHER_MODEL,
    VARIABLES,
    ChatFormat,
    chat_format,
    refusal,
    template_of,
    template_text,
)
from agentrefine.tuning.masking import apply_loss
from agentrefine.tuning.rendering import OTHER_PROMPT, Rendered, prompt_ids, render
from agentrefine.tuning.results import RenderingCounts

SHOWN = 100
"""Characters of a text that a remark or an error quotes at the most."""

_THINKING = "<think>\nthe box is shut\n</think>\n\n" + reply_text("i open it", "open box")


def probe() -> list[Message]:
    """A game with what makes rendering go wrong: blank lines, white space around texts, digits, letters beyond ASCII,
    text that looks like markup, and a mistake."""
    return [
        *opening("You play a game.\n\n\nActions:\ntake {item} : take it\n", "fetch 1,234 keys", "You are in the café."),
        Message(role="assistant", content=reply_text("two lamps,  3 boxes: é ñ 中文 🔑", "look in box 10"), loss=True),
        Message(role="user", content=" \n The box [1] is shut.\n\n"),
        Message(role="assistant", content=reply_text("it is open", "take key"), loss=False),
        Message(role="user", content="Error: <b>nothing</b> happened & 50% is left\t."),
        Message(role="assistant", content=reply_text("i was wrong.\n\n- open it first", "open box 10"), loss=True),
        Message(role="user", content="The box is open."),
        Message(role="assistant", content=f"  {reply_text('here it is', 'take key 12 from box 10')} \n", loss=True),
    ]


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Refuse a tokenizer or chat template that a conversation cannot be trained with; done once for each.

    The beginning of a conversation must be the beginning of its text and of its tokens at every turn, the trained
    tokens must decode to the texts and end with a token that ends a turn, for every loss.

    Returns:
        What is allowed and worth knowing, one sentence each: a default system prompt, a fixed date, trimmed texts.

    Raises:
        UserError: names what the template does and what to do.
    """
    return list(_checked(tokenizer, template_of(tokenizer)))


@lru_cache(maxsize=8)
def _checked(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, ...]:
    try:
        _check(tokenizer)
    except UserError as error:
        twin = _training_twin(tokenizer, template)
        if twin is None:
            raise
        raise UserError(f"{error} {twin}, which trl ships for training, passes: name it there.") from error
    return tuple(_remarks(tokenizer, chat_format(tokenizer)))


def _check(tokenizer: PreTrainedTokenizerBase) -> None:
    for loss in get_args(Loss):
        _check_tokens(tokenizer, apply_loss(probe(), loss), loss)
    bos = tokenizer.bos_token
    if bos and chat_format(tokenizer).head.startswith(bos * 2):
        remedy = "write it once in a copy of the template, and set base_model.chat_template in params.yaml to that file"
        raise refusal(tokenizer, f"it begins with {bos} twice", remedy)


def _check_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], loss: Loss) -> None:
    rendered = render(tokenizer, messages, loss)
    for turn, span in enumerate(rendered.spans):
        if prompt_ids(tokenizer, messages[: 2 * turn + 1]) != rendered.ids[: span.start]:
            raise refusal(tokenizer, OTHER_PROMPT)
        text = messages[2 * turn + 1].content.strip()
        decoded = tokenizer.decode(rendered.ids[span.start : span.end - 1], clean_up_tokenization_spaces=False).strip()
        if decoded != text:
            at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
            found, expected = decoded[max(0, at - 10) : at + 10], text[max(0, at - 10) : at + 10]
            raise refusal(tokenizer, f"its tokens decode to {found!r} where the text is {expected!r}", OTHER_MODEL)


def _remarks(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> list[str]:
    remarks = []
    words = chat.head
    for token in tokenizer.added_tokens_decoder.values():
        words = words.replace(token.content, " ")
    words = " ".join(words.split())
    if len(words.split()) > 2:
        shown = f"{words[:SHOWN]}..." if len(words) > SHOWN else words
        remarks.append(f"Every conversation begins with the template's own text, which is not trained: {shown!r}.")
    dates = [str(VARIABLES[name]) for name in ("date_string", "current_date")]
    if any(date in chat.head for date in dates):
        remarks.append("The template dates a conversation; the date is fixed, so that tokens do not change by the day.")
    if chat.trims_users:
        remarks.append("The template takes white space off the ends of texts.")
    bos = tokenizer.bos_token
    if bos and not chat.head.startswith(bos) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        remarks.append(f"The template writes no {bos}, with which this tokenizer begins a text; most models miss it.")
    if chat.end_of_turn != tokenizer.eos_token_id:
        end = tokenizer.convert_ids_to_tokens(chat.end_of_turn)
        remarks.append(f"A reply ends with {end}, not with {tokenizer.eos_token}: a server must stop there too.")
    thinking = [Message(role="user", content="a"), Message(role="assistant", content=_THINKING)] * 2
    if template_text(tokenizer, thinking) != chat.lay_out(thinking)[0]:
        remarks.append("The template rewrites replies that hold <think> tags: such a conversation is refused.")
    return remarks


def _training_twin(tokenizer: PreTrainedTokenizerBase, template: str) -> Path | None:
    """TRL's variant of this template for training, if there is one and it passes with this tokenizer."""
    folder = Path(str(resources.files("trl"))) / "chat_templates"
    for twin in sorted(folder.glob("*_training.jinja")):
        original = twin.with_name(twin.name.replace("_training", ""))
        if not original.is_file() or original.read_text(encoding="utf-8").strip() != template.strip():
            continue
        own, tokenizer.chat_template = tokenizer.chat_template, twin.read_text(encoding="utf-8")
        try:
            _check(tokenizer)
        except UserError:
            return None
        else:
            return twin
        finally:
            tokenizer.chat_template = own
    return None


class LengthGroupedBatches(BatchRebalanceSampler):  # type: ignore[misc]
    """One process's batches of row numbers, in the order of training.

    An epoch is drawn from the seed and the epoch's number alone, in steps of nearly the same number of rows of similar
    length. A step's rows are divided among `processes` times `accumulation` batches of about the same cost
    (transformers' BatchRebalanceSampler). So neither the number of processes, nor accumulation, nor an interruption
    changes what a step trains on.

    Args:
        lengths: tokens of every row.
        step_rows: rows of a step, about.
        processes: that share a step.
        accumulation: batches of each process in a step.
        rank: of this process.
        seed: of the order.
    """

    def __init__(
        self, lengths: Sequence[int], step_rows: int, *, processes: int, accumulation: int, rank: int, seed: int
    ) -> None:
        super().__init__(
            list(lengths), step_rows, processes, accumulation, seed=seed, rank=rank, drop_last=False
        )  # fmt: skip
        shares = processes * accumulation
        if len(self.lengths) < shares:
            raise ValueError(f"{len(self.lengths)} rows are fewer than one for each of {shares} batches of a step")
        # Not so many steps that one has fewer rows than batches.
        self._steps = min(-(-len(self.lengths) // step_rows), len(self.lengths) // shares)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch that `set_epoch` named."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.effective_batch_size, generator=generator)
        # Equal steps, so that the last one is no smaller than the others.
        borders = [step * len(order) // self._steps for step in range(self._steps + 1)]
        for begin, end in itertools.pairwise(borders):
            yield from self._yield_global_batch(order[begin:end])

    def __len__(self) -> int:
        """Batches of one process in an epoch."""
        return self._steps * int(self.grad_accum)


def row_lengths(rows: Dataset) -> list[int]:
    """Tokens of every row, read in pieces."""
    return [len(ids) for batch in rows.iter(1000) for ids in batch["input_ids"]]


FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


def rendered_rows(
    file: Path, tokenizer: PreTrainedTokenizerBase, loss: Loss, max_length: int, cache: Path
) -> tuple[Dataset, RenderingCounts]:
    """The rows (`input_ids`, `labels`) of a file of samples, kept under the folder `cache`.

    Raises:
        UserError: the file is missing or broken, the chat template cannot be trained on, or no row trains anything.
    """
    counts = RenderingCounts()
    longest = min(max_length, _context_length(tokenizer))

    def rows() -> Iterator[dict[str, list[int]]]:
        for _, rendered in rendered_samples(file, tokenizer, loss, longest, counts):
            yield {"input_ids": rendered.ids, "labels": rendered.labels}

    iterator = rows()
    first = next(iterator, None)
    if first is None:
        raise UserError(
            f"{file}: holds no sample with a trained turn of at most {longest} tokens; "
            "raise tuning.max_length, or run the quality gate again with more samples."
        )

    def all_rows() -> Iterator[dict[str, list[int]]]:
        yield first
        yield from iterator

    try:
        data = Dataset.from_generator(all_rows, features=FEATURES, cache_dir=str(cache), fingerprint=file.stem)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError | OSError):
            raise error.__cause__ from None
        raise
    return data, counts


def rendered_samples(
    file: Path, tokenizer: PreTrainedTokenizerBase, loss: Loss, max_length: int | None, counts: RenderingCounts
) -> Iterator[tuple[str, Rendered]]:
    """The samples of a file that train something: their ids, and what is trained of them; `counts` grows with each.

    Raises:
        UserError: the file is missing or broken, or the chat template cannot be trained on; names the sample.
    """
    check_chat_template(tokenizer)
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for sample in read_jsonl(file, Sample):
        messages = sample.messages()
        if any(special in message.content for message in messages for special in specials):
            counts.samples_with_special_tokens += 1
            continue
        try:
            rendered = render(tokenizer, messages, loss, max_length)
            whole = render(tokenizer, messages, "refinement", max_length) if loss == PLAIN else rendered
        except UserError as error:
            raise UserError(f"{file}, sample {sample.id}: {error}") from error
        counts.turns_dropped += rendered.dropped_turns
        if not rendered.trained_tokens:
            counts.samples_dropped += 1
            continue
        counts.samples += 1
        counts.tokens += len(rendered.ids)
        counts.whole_tokens += len(whole.ids)
        counts.trained_tokens += rendered.trained_tokens
        counts.longest = max(counts.longest, len(rendered.ids))
        yield sample.id, rendered


def _context_length(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.model_max_length)
