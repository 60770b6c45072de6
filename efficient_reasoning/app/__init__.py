"""Explore: one local page on evaluation runs. The curve, the samples behind it, and one's own question to two models.

1. The page is for reading a run, not for keeping it: it writes nothing.
2. It listens on 127.0.0.1, serves none of gradio's file routes, and asks no other host: fonts are the system's, the
   curve is an SVG of our own.
3. A run is sent in pieces: the browser gets one page of lines and one sample, whatever a run holds.
4. What a model wrote is text and nothing else, wherever it is shown.
"""

from efficient_reasoning.app.serve import serve

__all__ = ["serve"]
