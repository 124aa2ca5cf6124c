"""How much was forgotten and kept: accuracies, CLIP score, M-Score, distances."""
