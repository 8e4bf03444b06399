"""Chat templates in a process of their own: programs that came with a model, or with a request, and can be stopped."""
