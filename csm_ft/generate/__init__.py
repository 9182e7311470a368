"""Recordings from trained weights: `python -m csm_ft.generate`."""
