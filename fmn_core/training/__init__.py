"""Forgetting and inversion by gradient: losses, trainer, references, drift."""
