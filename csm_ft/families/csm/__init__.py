"""Sesame's Conversational Speech Model.

A backbone over frames, a depth decoder over the codebooks of a frame.
"""
