"""Score tables, folders, shards and hub data sets of any size, and continue stopped runs."""
