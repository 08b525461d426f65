"""Commands on a results tree other than `run`, and the command line that all of them share."""
