"""Switching: deciding for each problem how hard to think about it, or which of two models is to."""
