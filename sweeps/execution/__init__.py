"""Trains packs on Ray.

What a run needs while it runs: the driver, its trials and their worker, the Ray that is found or
started for them, the software of its machines, scratch space, and what a person sees meanwhile.
"""
