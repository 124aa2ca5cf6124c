"""The forget patch: low-rank factors, file, metadata schema, parts, and rank reduction."""
