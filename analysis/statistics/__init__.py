"""Phases, transitions and tests: tables from tables, nothing drawn."""
