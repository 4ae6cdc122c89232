"""What makes the embedded default run: a rule-based teacher behind OpenAI's API, and the tiny base model."""
