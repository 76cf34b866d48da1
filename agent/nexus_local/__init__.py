"""The embedded Nexus: a real, small one for a laptop, for tests and for isolated sites. SQLite, one process."""
