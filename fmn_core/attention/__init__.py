"""Cross-attention: zeroing, hooks, masks and maps."""
