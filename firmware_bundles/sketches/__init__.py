"""Mergeable summaries of values, their codec and the distances between them."""
