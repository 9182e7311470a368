"""Long recordings to clips with text: `python -m csm_ft.datasets segment`."""
