"""Handlers, one file per family of routes."""
