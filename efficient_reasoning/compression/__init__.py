"""Compression of chains of thought: what the data tools share, from the traces they read to the rows they write."""

from efficient_reasoning.compression.chains import by_problem, refusal, split_steps, training_row
from efficient_reasoning.compression.tool import CompressionArguments, compress

__all__ = ["CompressionArguments", "by_problem", "compress", "refusal", "split_steps", "training_row"]
