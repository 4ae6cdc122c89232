"""agentrefine: refinement tuning of language-model agents, from personas to compared models.

The data's path: persona -> script -> trajectory -> verdict -> sample -> model -> episode -> metric.
"""

__version__ = "0.1.0"
