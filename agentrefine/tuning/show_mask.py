"""Shows what a sample trains: `python -m agentrefine.tuning.show_mask data/dataset/train.jsonl`."""

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from agentrefine.conversation import Sample
from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.params.tuning import Loss
from agentrefine.tuning.models import load_tokenizer
from agentrefine.tuning.rendering import Rendered, render

TRAINED, MASKED_TURN, CONTEXT = "bold green", "red", "dim"


def colour(tokenizer: PreTrainedTokenizerBase, rendered: Rendered) -> Text:
    """The decoded sample: trained turns green, turns that are kept but not trained red, the rest dim."""
    text = Text()
    position = 0
    for span in rendered.spans:
        text.append(tokenizer.decode(rendered.ids[position : span.start]), style=CONTEXT)
        style = TRAINED if span.trained else MASKED_TURN
        text.append(tokenizer.decode(rendered.ids[span.start : span.end]), style=style)
        text.append("\n")
        position = span.end
    return text


def _sample(file: Path, number: int) -> Sample:
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
    parser.add_argument("--loss", choices=get_args(Loss), default="refinement", help="default: %(default)s")
    arguments = parser.parse_args()
    console = Console()
    try:
        sample = _sample(arguments.file, arguments.number)
        tokenizer = load_tokenizer(arguments.model)
        rendered = render(tokenizer, sample.messages(), arguments.loss)
    except UserError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    console.print(colour(tokenizer, rendered))
    legend = Text.assemble(("trained ", TRAINED), ("assistant, not trained ", MASKED_TURN), ("context", CONTEXT))
    console.print(legend)
    share = rendered.trained_tokens / len(rendered.ids)
    console.print(f"{sample.id}: {rendered.trained_tokens} of {len(rendered.ids)} tokens trained ({share:.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
