"""The figures of one condition and what all figures share.

A module a figure: a function that computes its table, which tests check, one that draws the table
on given axes, and one that makes the whole figure. How figures look is in `style`, the geometry of
maps in `tiles`; `text_map` draws with letters. A figure that answers one particular question
stands with its question, in `analysis.questions`."""
