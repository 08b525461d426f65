"""Colours as they are seen with and without colour vision."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb

# Vienot, Brettel & Mollon 1999 (deuteranopia, protanopia) and Machado et al. 2009 (tritanopia,
# severity 1), on linear RGB
VISION = {
    "usual": np.eye(3),
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "tritanopia": [[1.25553, -0.07675, -0.17878], [-0.07841, 0.93081, 0.1476],
                   [0.00473, 0.6913, 0.30397]],
    "grey print": [[0.2126, 0.7152, 0.0722]] * 3,
}  # fmt: skip


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB, last axis 3."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    t = np.clip(rgb, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def seen_lab(color, vision: str) -> np.ndarray:
    """CIELAB of one of matplotlib's colours as this vision sees it, shape (3,)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return lab(linear @ np.array(VISION[vision]).T)
