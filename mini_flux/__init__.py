"""The miniature FLUX in the making: a small transformer in a world where things stand side by side. It has no weights yet.

In this order: prepare_art, train_vae, encode_scenes, train_text, train_flux, train_judge, export. All write to out/mini_flux, and trainings go on where they were interrupted.
"""
