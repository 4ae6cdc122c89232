"""From gated samples to a tuned model: chat template, ids and labels, the tiny base model, the trainer."""
