"""csm-ft: hyper-parameter-sweep-first fine-tuning of conversational speech models."""
