"""Moonshine: a small speech recogniser on raw sound. 16 kHz samples in, text out."""
