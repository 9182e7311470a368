"""Sesame's Conversational Speech Model: a backbone over frames, a depth decoder over the codebooks of a frame."""
