"""The model as the method sees it: protocol, tokens, layers, sampling, and the caches of encoded prompts."""
