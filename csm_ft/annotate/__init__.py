"""python -m csm_ft.annotate: the words of dialogues with their times, by a recogniser."""
