"""Tools for developers: the ComfyUI of tests and demo, translations, pictures of nodes, fuzzing, import contracts."""
