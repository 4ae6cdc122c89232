"""Environments that an agent plays: one module per benchmark, all on the contract of `base`."""
