"""How models write tool calls and reasoning into their text, and the parsers that find them. [host half: no jax]"""
