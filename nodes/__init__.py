"""Thin ComfyUI nodes over fmn_core, in packages by menu group."""
