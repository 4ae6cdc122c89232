"""Environments that an agent plays: a package per benchmark, all on the contract of `base`."""
