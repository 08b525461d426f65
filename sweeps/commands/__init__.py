"""Commands on a results tree other than `run`, a module each, and the parser that all share.

A module here has a `main(argv)` that reads a command line, and calls what does the work.
"""
