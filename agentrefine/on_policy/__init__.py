"""A tuned model plays training worlds, and an expert corrects its own mistakes: on-policy refinement data."""
