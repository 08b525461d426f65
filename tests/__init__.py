"""Tests, in folders that mirror the packages; `tools` helps, `benchmarks` times."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository
