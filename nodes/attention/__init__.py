"""Nodes that show, mask and zero attention."""
