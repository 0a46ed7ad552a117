"""The order of moves, slots, and the one account of bytes."""
