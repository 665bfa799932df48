"""Programs to write, of which the request leaves much open."""
