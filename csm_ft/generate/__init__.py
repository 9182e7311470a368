"""Samples from trained weights: `python -m csm_ft.generate`."""
