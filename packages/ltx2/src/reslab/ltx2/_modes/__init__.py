"""Device modes: planned, bounded for a card, run and compared, and offered in a widget."""
