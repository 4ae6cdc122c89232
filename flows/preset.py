"""`agentrefine preset`, which writes the values of a preset into params.yaml: python -m flows.preset"""

import sys

from flows.cli import main

if __name__ == "__main__":
    main(["preset", *sys.argv[1:]])
