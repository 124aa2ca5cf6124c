"""What is to be forgotten and what is to stay: concepts, templates, presets, preserve sets, embedding files."""
