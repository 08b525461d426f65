"""Phase diagrams of in-context learning.

`metaphase.core` trains cells, `metaphase.sweeps` runs grids of them on Ray, `metaphase.analysis`
reads what they wrote. In the repository the three are folders at the top level, mapped into this
package by pyproject.toml; the links beside this file show the same to tools that read a checkout
without installing it (Python itself, type checkers, editors).
"""
