"""From a folder (or from nothing but a seed) to a model's leaves."""
