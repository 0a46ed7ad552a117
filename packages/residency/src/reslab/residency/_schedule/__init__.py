"""What moves when, and what that takes: the order of moves, slots, and the one account of bytes."""
