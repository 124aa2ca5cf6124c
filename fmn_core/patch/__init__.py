"""The forget patch: low-rank factors, its file, what its metadata may say, and fewer ranks."""
