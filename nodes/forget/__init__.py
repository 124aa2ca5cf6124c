"""Nodes that make a model forget a concept."""
