"""The questions that a whole sweep can answer: a module a question, its table, words and figure.

Each module's `find` tells whether a sweep's cells can answer its question and yields `Answer`s;
`registry` asks all of them. What concerns one condition's map alone belongs in `analysis.figures`.
"""
