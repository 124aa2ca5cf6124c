"""Scores of forgetting and keeping: accuracies, CLIP score, M-Score, distances."""
