"""Parallel search: several samples of one problem, or of a part of it, and a rule that chooses among them."""
