"""The shipped workflows: what is in them, and how they are laid out and pictured in the real front end."""
