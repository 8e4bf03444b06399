"""A load generator for OpenAI endpoints: prompts, arrivals, a streaming client, figures, a report. [no jax]"""
