"""Nodes that describe the concepts to forget."""
