"""What only developers run: the ComfyUI of tests and demo, translations, pictures of nodes, fuzzing."""
