"""Cross-attention: zeroing, hooks, masks, maps, and queries."""
