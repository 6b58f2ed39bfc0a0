"""Domain 0's half of the split drivers: block, net, console, and the private network they end at."""
