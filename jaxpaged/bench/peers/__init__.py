"""Scripts that serve a trace with another engine, each run by that engine's own Python.

They import nothing of this package but `peer_records` beside them, whose docstring says what goes in and comes out.
"""
