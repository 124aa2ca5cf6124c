"""Cross-attention read, zeroed and masked: probabilities, hooks, maps, masks, queries."""
