"""From personas to games: prompts, first answers, the repair loop, and what it all costs."""
