"""CSM weights for Sesame's code and for transformers."""
