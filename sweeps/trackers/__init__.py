"""Results where people already look: finished cells are mirrored to experiment trackers, by a
process of its own for each, which reads the results tree and is never waited for by training."""
