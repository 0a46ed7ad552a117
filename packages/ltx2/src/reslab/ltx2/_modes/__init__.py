"""Device modes: decided, run, compared, and tried with a widget."""
