"""Pages to build, of which the request leaves much open."""
