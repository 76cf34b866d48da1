"""Those who hand values over: the socket, and files on tmpfs."""
