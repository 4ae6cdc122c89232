"""Prefect tasks: one module per stage around `agentrefine`, each with the version that its cache key holds."""
