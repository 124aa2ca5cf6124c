"""Nodes that load the miniature and image-text models."""
