"""Reasoning in hidden states instead of tokens."""
