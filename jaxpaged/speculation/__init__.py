"""Speculation: guesses of a request's next tokens, verified as ordinary rows of a step."""
