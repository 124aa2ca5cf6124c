"""Attacks, which search for an input that brings a concept back, and hardening against them."""
