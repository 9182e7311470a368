"""A toy family: stereo sound in, text out."""
