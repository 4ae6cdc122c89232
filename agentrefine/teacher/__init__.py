"""Who writes scripts and trajectories: any OpenAI-compatible endpoint, its journal, and the offline stand-in."""
