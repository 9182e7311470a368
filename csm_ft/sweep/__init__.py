"""The sweep: one orchestrator that owns the study, and warm workers that run trials.

Only worker.py may import torch.

space.py (YAML -> search space), study.py (the single writer), asha.py (when to stop), broker.py
(workers, queue, retries), messages.py (what they tell each other), worker.py (runs trials),
results.py and verdict.py (what is left behind).
"""
