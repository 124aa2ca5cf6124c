"""What the page asks the server: routes, live monitor, patch list, token preview."""
