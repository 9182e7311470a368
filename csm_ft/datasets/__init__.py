"""Metadata, folders and corpora as people have them, to rows: what is said in which sound."""
