"""Scores against people's ratings, and people's ratings against each other."""
