"""What the start script of `nexus-run` leaves to others. Standard library only."""

VERSION = "0.1.0"
