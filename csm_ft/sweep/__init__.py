"""The sweep: one orchestrator that owns the study, and warm workers that run trials.

Only worker.py may import torch. records.py (what is kept of a trial, a verdict, a sweep), config.py
with request.py and rows.py (the command and the sweep config), space.py (what is searched),
trials.py (what a trial is), study.py with journal.py and importance.py (the single writer),
samplers.py (where to look next), asha.py with pruning.py (when to stop), broker.py with
worker_process.py, lanes.py, watchdog.py and packing.py (workers), cluster.py with node.py and
copying.py (workers on other machines), mirror.py (a database that follows), outcomes.py with
waiting.py, faults.py and slot_health.py (retries and what becomes of trials), link.py and
messages.py (what they send each other), worker.py (runs trials), results.py, table.py and
verdict.py (what is left behind), run.py (all of it together).
"""
