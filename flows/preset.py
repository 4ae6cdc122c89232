"""Write a preset's values into params.yaml: python -m flows.preset llama-3-8b-lora

Comments stay, and nothing is written unless params.yaml is valid with them; `git checkout params.yaml` undoes it.
"""

import argparse

from agentrefine.params.presets import apply_preset, preset_names
from flows.command import exit_with_sentence
from flows.workspace import PARAMS, PRESETS, exclusive_use


def main() -> None:
    """Apply the named preset and print each value that changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"one of {', '.join(preset_names(PRESETS))}")
    name = parser.parse_args().name
    with exclusive_use():
        changes = apply_preset(name, PARAMS, PRESETS)
    for change in changes:
        print(change)
    if not changes:
        print(f"{PARAMS} already holds the values of {PRESETS / name}.yaml.")


if __name__ == "__main__":
    exit_with_sentence(main)
