"""From gated samples to a tuned model: chat template, ids and labels, masks, the trainer, checkpoints."""
