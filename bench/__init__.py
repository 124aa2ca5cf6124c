"""Measurements on the miniature, on random full-size models and on devices; pages and figures are in bench/results."""
