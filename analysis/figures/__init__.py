"""Drawings of tables: each figure a table and a function that draws it on given axes."""
