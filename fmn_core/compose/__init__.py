"""Several patches as one: merged, side by side, behind a gate."""
