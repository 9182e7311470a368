"""The parts of training that the loop in train.py calls."""
