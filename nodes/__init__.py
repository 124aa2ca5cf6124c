"""Thin ComfyUI nodes over fmn_core, one module per topic."""
