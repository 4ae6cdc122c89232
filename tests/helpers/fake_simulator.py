"""A simulator that does what it is told: it also dies, hangs, prints, talks junk, grows and starts other processes."""

import ctypes
import os
import subprocess
import sys
import time

from agentrefine.benchmarks.base import NoSolutionError, StepResult, UnlistedActionsError
from agentrefine.benchmarks.worker import Opening


class FakeSimulator:
    def __init__(self):
        self.episode = None
        self.steps = 0

    def start(self, episode):
        self.episode, self.steps = episode, 0
        return Opening({"act": "do it"}, f"goal of {episode.id}", f"process {os.getpid()}")

    def step(self, action):
        self.steps += 1
        verb, _, rest = action.partition(" ")
        if verb == "raise":
            raise RuntimeError(rest)
        if verb == "exit":
            os._exit(int(rest))
        if verb == "segfault":
            ctypes.string_at(0)
        if verb == "hang":
            time.sleep(1000)
        if verb == "print":
            print(rest, flush=True)
            os.system(f"echo {rest}")
        if verb == "read":
            rest = repr(sys.stdin.read())
        if verb == "grow":
            return self.answer(str(len(bytearray(int(rest)))))
        if verb == "child":
            return self.answer(str(subprocess.Popen(["sleep", "1000"]).pid))
        if verb == "junk":
            return object()
        if verb == "long":
            return self.answer("x" * int(rest))
        if verb == "variable":
            return self.answer(os.environ.get(rest, ""))
        return self.answer(f"{self.steps}: {rest}")

    def possible(self):
        if self.episode.task == "unlisted":
            raise UnlistedActionsError("there is no list")
        return [f"say {self.steps}"]

    def gold(self, episode):
        if episode.task == "deadly":
            os._exit(1)
        if episode.task == "unsolvable":
            raise NoSolutionError("lost for good")
        return [f"win {episode.id}"]

    def answer(self, text):
        return StepResult(text, 0.5, False, False, True)
