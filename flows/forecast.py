"""`agentrefine forecast`, which estimates what a data set will cost: python -m flows.forecast"""

import sys

from flows.cli import main

if __name__ == "__main__":
    main(["forecast", *sys.argv[1:]])
