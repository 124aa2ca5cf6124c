"""Nodes for patches and their files."""
