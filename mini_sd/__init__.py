"""The miniature Stable Diffusion: its world of concepts, its training, its judge."""
