"""What is estimated and tested: phases, transitions, intervals, correlations, numbers of modes.

Here belongs what computes a number or a table and says where its formula comes from. Nothing here
draws, writes files or knows a command."""
