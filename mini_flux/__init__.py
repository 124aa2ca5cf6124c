"""The miniature FLUX: a small transformer in a world where things stand side by side, with how it was made.

In this order: prepare_art, train_vae, encode_scenes, train_text, train_flux, train_judge, export. All write to out/mini_flux, and trainings go on where they were interrupted.
"""
