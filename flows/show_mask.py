"""Shows what a sample trains: the command `agentrefine show-mask`.

In colour on a terminal; where there is no colour (a pipe, NO_COLOR) the turns stand in marks as wdiff writes them."""

from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.chat_template import Rendered, check_chat_template, render
from agentrefine.tuning.models import load_tokenizer

TRAINED, NOT_TRAINED, CONTEXT = "bold green", "red", "dim"
MARKS = {TRAINED: ("{+", "+}"), NOT_TRAINED: ("[-", "-]")}


def colour(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, *, marks: bool = False) -> Text:
    """The decoded sample: trained turns green, turns that are kept but not trained red, the rest dim.

    With `marks` trained turns also stand in {+ +} and the others in [- -].
    """
    text = Text()
    position = 0
    for span in rendered.spans:
        text.append(tokenizer.decode(rendered.ids[position : span.start]), style=CONTEXT)
        style = TRAINED if span.trained else NOT_TRAINED
        before, after = MARKS[style] if marks else ("", "")
        text.append(before + tokenizer.decode(rendered.ids[span.start : span.end]) + after, style=style).append("\n")
        position = span.end
    return text


def show_mask(file: Path, number: int, model: str, template: Path | None, train_on: MaskPolicy) -> None:
    """Print the sample of a number, from 1, with what of it is trained, masked and context.

    `model` is a folder or hub id, `template` a jinja file instead of the chat template of the model's tokenizer.

    Raises:
        UserError: there is no such sample, or a tokenizer or template that cannot be used.
    """
    if number < 1:
        raise UserError("bad_value", f"--number: counts from 1, not {number}.", key="--number", value=number)
    sample = next(islice(read_jsonl(file, Sample), number - 1, None), None)
    if sample is None:
        sentence = f"holds fewer than {number} samples; choose a smaller --number."
        raise UserError("too_few_samples", f"{file}: {sentence}", file=file, expected=number)
    console = Console()
    tokenizer = load_tokenizer(model, template)
    remarks = check_chat_template(tokenizer)
    rendered = render(tokenizer, sample.messages(), train_on)
    marks = console.no_color or not console.is_terminal
    console.print(colour(tokenizer, rendered, marks=marks), soft_wrap=True)
    trained, masked = ("{+trained+}", "[-assistant, not trained-]") if marks else ("trained", "assistant, not trained")
    console.print(Text.assemble((trained, TRAINED), " ", (masked, NOT_TRAINED), " ", ("context", CONTEXT)))
    for remark in remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    share = rendered.trained_tokens / len(rendered.ids)
    console.print(f"{sample.id}: {rendered.trained_tokens} of {len(rendered.ids)} tokens trained ({share:.0%})")
