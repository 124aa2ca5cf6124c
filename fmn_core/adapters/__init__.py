"""Adapters of the method: for diffusers pipelines, and for the benchmark eval-unlearn."""
