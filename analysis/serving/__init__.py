"""A sweep as it is at this moment, again and again: read anew as its tree changes, put into words
for a terminal, into a document for a page, and served to a browser on this machine."""
