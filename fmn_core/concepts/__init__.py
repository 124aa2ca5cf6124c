"""Concepts to forget and prompts to preserve: templates, presets, preserve sets, embedding files."""
