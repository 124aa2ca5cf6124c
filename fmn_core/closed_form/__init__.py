"""Forgetting in closed form: target pairs, their moments, the choice of weights, and one solve for all layers."""
