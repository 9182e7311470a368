"""From metadata and sound files to a token file."""
