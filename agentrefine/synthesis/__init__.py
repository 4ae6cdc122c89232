"""From personas to games: prompts, first answers, the refinement loop, and what it all costs."""
