"""Choosing the shipped recipe, and measuring everything that the results page reports."""
