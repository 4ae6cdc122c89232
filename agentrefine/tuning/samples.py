"""A data set's samples as rendered rows on disk, streamed: memory does not grow with the number of samples."""

from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from agentrefine.conversation import Sample
from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.params.tuning import PLAIN, Loss
from agentrefine.tuning.rendering import Rendered, render
from agentrefine.tuning.template_check import check_chat_template

FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


class RenderingCounts(BaseModel):
    """What rendering made of a data set.

    Attributes:
        samples: rows that train something.
        samples_with_special_tokens: conversations left out because a text holds a special token of the tokenizer, such
            as the end of a turn, which the model would learn to write in mid-sentence.
        samples_dropped: conversations of which no trained turn fits into the length limit.
        turns_dropped: assistant turns left out at the ends of conversations that are too long.
        tokens: of all rows.
        whole_tokens: of the same games before a loss cuts anything out of them.
        trained_tokens: of these, those with a label.
        longest: tokens of the longest row.
    """

    samples: int = 0
    samples_with_special_tokens: int = 0
    samples_dropped: int = 0
    turns_dropped: int = 0
    tokens: int = 0
    whole_tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0

    @property
    def trained_token_share(self) -> float:
        """Trained tokens by all tokens."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


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
