"""Find every use of an image in documents, and say what is wrong with its text alternative."""
