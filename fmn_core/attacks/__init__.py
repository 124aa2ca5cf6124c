"""Searches for what brings a concept back, and hardening against them."""
