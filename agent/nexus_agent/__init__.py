"""The Nexus sidecar agent: keeps a service's secrets, configs and flags ready beside the application."""

__version__ = "0.1.0"
