"""Nodes that know of each other: questions, answers and bells over Redis."""
