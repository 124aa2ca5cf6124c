"""Nodes that score, attack and report what a patch does."""
