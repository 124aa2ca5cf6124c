"""What `make demo` runs: one module for each miniature, and what they share."""
