"""One command a file: its flags, and what it does. Nothing heavy is imported before it is needed."""
