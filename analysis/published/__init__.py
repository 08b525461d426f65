"""A sweep beside published numbers: a module a published figure or table.

The published numbers themselves are in `reference`; `comparisons` finds what a sweep has in common
with them."""
