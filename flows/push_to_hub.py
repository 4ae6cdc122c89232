"""`agentrefine push`, which uploads a model or the data set: python -m flows.push_to_hub"""

import sys

from flows.cli import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])
