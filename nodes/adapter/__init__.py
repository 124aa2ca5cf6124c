"""Adapters that present the host's MODEL, CLIP, images and conditionings to fmn_core."""
