"""The parity certificate: a model as this engine computes it beside the same model in `transformers`."""
