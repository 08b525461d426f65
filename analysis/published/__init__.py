"""Values that papers report, and comparisons with them."""
