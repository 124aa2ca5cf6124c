"""Nodes that prepare a training by gradient: textual inversion, image pairs, options and the cache."""
