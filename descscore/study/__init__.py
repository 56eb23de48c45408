"""A study of what readers think of descriptions: its items, questions, and judgments kept in SQLite."""
