"""The display of profiles: charts, a table, a trace."""
