"""Which words, and which kinds of words, a model takes as marks of a description."""
