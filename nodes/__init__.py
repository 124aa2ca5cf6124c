"""The ComfyUI nodes, which are thin layers over fmn_core, and the packages that they share."""
