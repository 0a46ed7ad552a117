"""Plans: where weights live, who decided it, and the moves that follow."""
