"""Commands that read results trees, and the options that all of them share."""
