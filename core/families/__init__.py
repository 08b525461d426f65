"""Task families of which the best predictors are known, a module each: what the program brings
beside `projected_images`. They are plug-ins as a user's file is one, but known by name.

Plain Python until sequences are drawn: `core.cell` reads their settings without torch.
"""

from __future__ import annotations

from metaphase.core.families.balls_and_urns import BallsAndUrns
from metaphase.core.families.linear_regression import LinearRegression
from metaphase.core.families.markov_chains import MarkovChains
from metaphase.core.families.noisy_items import NoisyItems

FAMILIES: dict[str, type] = {
    "linear_regression": LinearRegression,
    "balls_and_urns": BallsAndUrns,
    "markov_chains": MarkovChains,
    "noisy_items": NoisyItems,
}
