"""Forgetting in closed form: target pairs, moments, choice of weights, solve."""
