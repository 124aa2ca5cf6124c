"""Nodes that load the miniatures and what judges pictures."""
