"""A study of what readers think of descriptions: items, questions, accounts, and judgments kept in SQLite."""
