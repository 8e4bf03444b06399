"""Measurements of the engine. A figure that leaves this folder goes to docs/LOG.md with its command."""
