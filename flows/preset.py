"""Write the values of presets into params.yaml: python -m flows.preset llama-3-8b-lora

Comments stay, and nothing is written unless params.yaml is valid with them; `git checkout params.yaml` undoes it.
"""

import sys
from collections.abc import Sequence

from agentrefine.params.presets import apply_preset
from flows.cli import main
from flows.workspace import PARAMS, PRESETS, exclusive_use


def apply_presets(names: Sequence[str]) -> None:
    """Apply the presets one after the other and print each value that changes.

    Raises:
        UserError: as `apply_preset`, or a pipeline runs in this folder.
    """
    for name in names:
        with exclusive_use():
            changes = apply_preset(name, PARAMS, PRESETS)
        for change in changes:
            print(change)
        if not changes:
            print(f"{PARAMS} already holds the values of {PRESETS / name}.yaml.")


if __name__ == "__main__":
    main(["preset", *sys.argv[1:]])
