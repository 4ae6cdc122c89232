"""Quality of a data set: its features, near-duplicates, overlap with the evaluation, and the split."""
