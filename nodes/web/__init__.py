"""The server's side of the page: routes, live monitor, patch list, token preview."""
