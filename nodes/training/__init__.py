"""Nodes around trainings by gradient."""
