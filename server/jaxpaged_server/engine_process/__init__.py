"""The engine in a process of its own: what is said over the wire, both ends of it, and who starts it again.

A step that hangs or a driver that crashes takes that process only; the front end goes on and says so.
"""
