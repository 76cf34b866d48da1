"""The slow path of `nexus-run`: what is not needed to start a program. Standard library only."""
