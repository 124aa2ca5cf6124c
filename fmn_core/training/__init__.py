"""Forgetting and inversion by gradient: losses, draws, trainer, drift."""
