"""Trains packs on Ray: the driver, the worker, and what they find and show around them."""
