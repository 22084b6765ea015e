"""The faces of the service: command line, pages and HTTP."""
