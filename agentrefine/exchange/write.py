"""Writes a data set in another tool's format: python -m agentrefine.exchange.write axolotl data/dataset exported

docs/data-formats.md shows each format and how its tool reads it.
"""

import argparse
import sys
from typing import get_args

from agentrefine.exchange.command import run
from agentrefine.exchange.exporting import export
from agentrefine.exchange.formats import FORMATS
from agentrefine.files import user_path
from agentrefine.params.tuning import Loss


def main() -> None:
    """Write the data set and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=[*FORMATS, "trl"])
    parser.add_argument("data_set", type=user_path, help="a folder with train.jsonl and validation.jsonl")
    parser.add_argument("out", type=user_path, help="a folder that does not exist yet")
    parser.add_argument("--loss", choices=get_args(Loss), default="refinement", help="default: %(default)s")
    parser.add_argument("--model", default="models/base", help="trl: whose tokenizer (default: %(default)s)")
    parser.add_argument("--max-length", type=int, help="trl: tokens; turns beyond are left out (default: no limit)")
    arguments = parser.parse_args()
    if arguments.format == "trl":
        from agentrefine.exchange.tokens import export_tokens  # takes seconds to import, and the others not a moment
        from agentrefine.tuning.models import load_tokenizer

        tokenizer = load_tokenizer(arguments.model)
        written = export_tokens(arguments.data_set, arguments.out, arguments.loss, tokenizer, arguments.max_length)
    else:
        written = export(FORMATS[arguments.format], arguments.data_set, arguments.out, arguments.loss)
    for split, counts in written.items():
        print(
            f"{split}: {counts.records:,} records with {counts.trained_turns:,} trained turns "
            f"from {counts.read:,} samples"
        )
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    sys.exit(run(main))
