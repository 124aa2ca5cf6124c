"""Cross-attention read, zeroed and masked: probabilities, hooks, maps and masks."""
