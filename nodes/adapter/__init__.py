"""MODEL, CLIP and conditionings of the host as fmn_core sees them."""
