"""The flat config: YAML key = command-line flag = sweep parameter."""
