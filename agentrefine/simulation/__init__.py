"""What makes the embedded default run: a simulated teacher behind OpenAI's API, and the tiny base model."""
