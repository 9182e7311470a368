"""Inaudible watermarks in generated speech, by Sony's silentcipher where it is installed."""
