"""A policy (local model, endpoint or reference) plays episodes of benchmarks, and what they come to."""
