"""All that a server knows in one file, while it works or not, and back again."""
