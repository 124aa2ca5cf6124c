"""What the method needs to know of a model: its protocol, tokens, layers, sampling, and encoded prompts kept in memory."""
