"""Nodes that show cross-attention, mask pictures by it, or zero it."""
