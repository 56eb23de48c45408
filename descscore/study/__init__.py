"""A study in which people judge image descriptions: items, questions, accounts and judgments."""
