"""What requests and replies are: msgspec structs, one file per family of routes, and how a body becomes one."""
