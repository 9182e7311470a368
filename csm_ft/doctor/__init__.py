"""Looks at a machine before anybody waits."""
