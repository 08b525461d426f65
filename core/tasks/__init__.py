"""Task families, a module each: what a task is, and how its inputs are computed; and the sampler,
which draws the batches of streams from them."""
