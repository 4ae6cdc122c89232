"""Prefect tasks: one module per stage around `agentrefine`; `tracking` shows what they do, the others run them."""
