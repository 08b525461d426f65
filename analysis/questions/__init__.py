"""What a sweep was run to answer, found in its cells: each with its table, words and figure."""
