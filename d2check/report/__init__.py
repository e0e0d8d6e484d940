"""A Report becomes text: for a terminal, for CI servers, for scripts."""
