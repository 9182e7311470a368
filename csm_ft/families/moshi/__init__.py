"""Moshi: full-duplex dialogue over two streams of codes and one of text."""
