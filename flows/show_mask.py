"""Shows what a sample trains: the command `agentrefine show-mask`.

A token is trained, masked (of a mistake, or of another turn that the mask policy does not train) or context, which is
everything else: what the agent reads, and its acknowledgement of the instructions. In colour on a terminal; where there
is no colour (a pipe, NO_COLOR) the turns stand in marks as wdiff writes them.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.chat_template import Rendered, check_chat_template, render

STYLES = {"trained": "bold green", "masked": "red", "context": "dim"}
MARKS = {"trained": ("{+", "+}"), "masked": ("[-", "-]"), "context": ("", "")}


class Part(NamedTuple):
    """Tokens that follow each other.

    Attributes:
        state: of all of them, `trained`, `masked` or `context`.
        is_reply: whether they are a reply of the agent.
        ids: of the tokens.
    """

    state: str
    is_reply: bool
    ids: list[int]


def parts(rendered: Rendered) -> Iterator[Part]:
    """A sample's tokens in their order. A first reply that is not trained is the acknowledgement, so it is context."""
    position = 0
    for turn, span in enumerate(rendered.spans):
        yield Part("context", False, rendered.ids[position : span.start])
        state = "trained" if span.trained else "masked" if turn else "context"
        yield Part(state, True, rendered.ids[span.start : span.end])
        position = span.end
    yield Part("context", False, rendered.ids[position:])


def colour(tokenizer: PreTrainedTokenizerBase, shown: Iterable[Part], *, marks: bool) -> Text:
    """The decoded sample in colours; with `marks` trained tokens also stand in {+ +} and masked ones in [- -]."""
    text = Text()
    for state, is_reply, ids in shown:
        before, after = MARKS[state] if marks else ("", "")
        text.append(before + tokenizer.decode(ids) + after, style=STYLES[state])
        if is_reply:
            text.append("\n")
    return text


def show_mask(file: Path, number: int, tokenizer: PreTrainedTokenizerBase, train_on: MaskPolicy) -> None:
    """Print the sample of a number, from 1, with what of it is trained, masked and context.

    Raises:
        UserError: there is no such sample, or a chat template that cannot be used.
    """
    sample = next(islice(read_jsonl(file, Sample), number - 1, None), None)
    if sample is None:
        sentence = f"holds fewer than {number} samples; choose a smaller --number."
        raise UserError("too_few_samples", f"{file}: {sentence}", file=file, expected=number)
    console = Console()
    remarks = check_chat_template(tokenizer)
    rendered = render(tokenizer, sample.messages(), train_on)
    shown = list(parts(rendered))
    marks = console.no_color or not console.is_terminal
    console.print(colour(tokenizer, shown, marks=marks), soft_wrap=True)
    console.print(_legend(shown, marks=marks))
    for remark in remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    share = rendered.trained_tokens / len(rendered.ids)
    console.print(f"{sample.id}: {rendered.trained_tokens} of {len(rendered.ids)} tokens trained ({share:.0%})")


def _legend(shown: Sequence[Part], *, marks: bool) -> Text:
    """How many tokens have each state, in its colour and marks."""
    states = []
    for state, style in STYLES.items():
        before, after = MARKS[state] if marks else ("", "")
        count = sum(len(part.ids) for part in shown if part.state == state)
        states.append(Text(f"{before}{state}{after}: {count} tokens", style=style))
    return Text("  ").join(states)
