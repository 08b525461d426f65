"""What may be wrong with results, apart from what reads them: command lines name it before pandas
is imported."""

from __future__ import annotations


class ResultsError(ValueError):
    """Results that can't be read or don't make sense together. The message is one line."""


class ResultsWarning(UserWarning):
    """A file that was skipped. The message is one line and names the file."""
