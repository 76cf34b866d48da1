"""Start a program with its secrets in the environment. Standard library only."""
