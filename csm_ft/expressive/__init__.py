"""From folders of expressive speech to a page: `python -m csm_ft.expressive DIR ...`."""
