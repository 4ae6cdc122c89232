"""The held-out worlds."""
