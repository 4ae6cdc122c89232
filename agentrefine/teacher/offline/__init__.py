"""The offline teacher: a rule-based stand-in behind the OpenAI chat completions API.

It is not a language model. It answers the prompts of `agentrefine.teacher.prompts`, and only those, for dry runs, tests
and small studies: a persona's script is an executable world, a game is that world played by an expert that errs on
purpose, and a configurable share of the answers is bad in the ways in which answers of language models are bad.
"""

from agentrefine.teacher.offline.process import offline_teacher

__all__ = ["offline_teacher"]
