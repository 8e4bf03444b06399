"""The outermost layer of jaxpaged: the command line's entry, and (as it grows) the HTTP server.

Imports the engine; the engine never imports it.
"""
