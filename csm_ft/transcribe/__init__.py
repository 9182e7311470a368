"""Recordings of any length to text: cut at silence, recognised in batches, written as files."""
