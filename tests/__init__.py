"""Tests, in folders that mirror the packages; `tools` helps, `benchmarks` times."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository

for _name in ("core", "sweeps", "analysis"):  # a source distribution has no links
    if not (_link := ROOT / "metaphase" / _name).exists():
        _link.symlink_to(f"../{_name}")
