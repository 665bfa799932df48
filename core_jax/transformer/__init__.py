"""Decoders of the Llama family: model, generation, weights, adapters, losses of language models."""
