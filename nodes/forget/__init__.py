"""Nodes that make a model forget."""
