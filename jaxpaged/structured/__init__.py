"""Answers of a given form: what is asked becomes one grammar, and a grammar says which tokens may come next."""
