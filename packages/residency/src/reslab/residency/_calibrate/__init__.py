"""What only timing can tell of this machine, measured with the copies that the engine makes."""
