"""Our commands as processes."""
