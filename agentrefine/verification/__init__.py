"""The rules, no LLM, that judge scripts and games: what an answer holds, its actions, its texts, its turns."""
