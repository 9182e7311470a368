"""Weights for other programs: `python -m csm_ft.export`."""
