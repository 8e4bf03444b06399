"""Who may ask: the keys of the server, and which of them a request carries. [no jax]"""
