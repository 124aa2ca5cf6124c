"""Combining patches: merging, side by side in one file, behind a gate."""
