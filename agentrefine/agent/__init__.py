"""A policy (local model or endpoint) plays episodes in environments."""
