"""From the cells of a grid to packs: what is missing, which workers there are, what goes together.

Nothing here starts anything or writes results.
"""
