"""Shows what a sample trains: `python -m agentrefine.tuning.show_mask data/dataset/train.jsonl`.

In colour on a terminal; where there is no colour (a pipe, NO_COLOR) the turns stand in marks as wdiff writes them."""

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import Loss
from agentrefine.tuning.models import load_tokenizer
from agentrefine.tuning.rendering import Rendered, check_chat_template, render

TRAINED, MASKED_TURN, CONTEXT = "bold green", "red", "dim"
MARKS = {TRAINED: ("{+", "+}"), MASKED_TURN: ("[-", "-]")}


def colour(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, *, marks: bool = False) -> Text:
    """The decoded sample: trained turns green, turns that are kept but not trained red, the rest dim.

    With `marks` trained turns also stand in {+ +} and the others in [- -].
    """
    text = Text()
    position = 0
    for span in rendered.spans:
        text.append(tokenizer.decode(rendered.ids[position : span.start]), style=CONTEXT)
        style = TRAINED if span.trained else MASKED_TURN
        before, after = MARKS[style] if marks else ("", "")
        text.append(before + tokenizer.decode(rendered.ids[span.start : span.end]) + after, style=style)
        text.append("\n")
        position = span.end
    return text


def _sample(file: Path, number: int) -> Sample:
    if number < 1:
        raise UserError(f"--number: counts from 1, not {number}.")
    sample = next(islice(read_jsonl(file, Sample), number - 1, None), None)
    if sample is None:
        raise UserError(f"{file}: holds fewer than {number} samples; choose a smaller --number.")
    return sample


def main() -> int:
    """Print one sample, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", default=Path("data/dataset/train.jsonl"), help="default: %(default)s"
    )
    parser.add_argument("--number", type=int, default=1, help="which sample, from 1")
    parser.add_argument("--model", default="models/base", help="whose tokenizer (a folder or a hub id)")
    parser.add_argument("--template", type=Path, help="a jinja file instead of the tokenizer's own chat template")
    parser.add_argument("--loss", choices=get_args(Loss), default="refinement", help="default: %(default)s")
    arguments = parser.parse_args()
    console = Console()
    try:
        sample = _sample(arguments.file, arguments.number)
        tokenizer = load_tokenizer(arguments.model, arguments.template)
        remarks = check_chat_template(tokenizer)
        rendered = render(tokenizer, sample.messages(), arguments.loss)
    except UserError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    marks = console.no_color or not console.is_terminal
    console.print(colour(tokenizer, rendered, marks=marks), soft_wrap=True)
    trained, masked = ("{+trained+}", "[-assistant, not trained-]") if marks else ("trained", "assistant, not trained")
    console.print(Text.assemble((trained, TRAINED), " ", (masked, MASKED_TURN), " ", ("context", CONTEXT)))
    for remark in remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    share = rendered.trained_tokens / len(rendered.ids)
    console.print(f"{sample.id}: {rendered.trained_tokens} of {len(rendered.ids)} tokens trained ({share:.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
