"""Speed of csm-ft measured beside its peers: `python -m benchmarks`. Not installed."""
