"""Params: every parameter with the defaults filled in, for DVC: python -m flows.params"""

from flows.command import exit_with_sentence
from tasks.params import write_resolved

if __name__ == "__main__":
    exit_with_sentence(write_resolved)
