"""The command line: one command a file, with its flags. What needs torch is imported inside the functions that run."""
