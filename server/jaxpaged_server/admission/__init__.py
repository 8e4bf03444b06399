"""Who may go next: bounded queues, rates, and fairness between keys, before anything reaches the engine. [no jax]"""
