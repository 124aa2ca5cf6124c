"""The miniature FLUX: a small transformer in a world where things stand side by side. Its weights are not trained yet."""
