"""Inputs, reports, pictures and drawing that nodes share."""
