"""Subtask Induction: find a subnetwork, and put it into another network."""

__version__ = "0.1.0"
