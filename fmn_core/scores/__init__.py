"""Scores of forgetting: accuracies, CLIP score, M-Score, distances between pictures, and attacks on a patch."""
