"""Nodes that say what to forget."""
