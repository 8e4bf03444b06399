"""Every request and reply of the HTTP API as a struct, one file per family of routes."""
