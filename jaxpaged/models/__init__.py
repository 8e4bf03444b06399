"""The model: what a Hugging Face configuration means, and the decoder that computes it."""
