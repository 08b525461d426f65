"""From cells to packs, for the hardware at hand. Nothing here starts anything."""
