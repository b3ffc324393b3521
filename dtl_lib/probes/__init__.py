"""One question a file, asked of a recorded forward pass."""
