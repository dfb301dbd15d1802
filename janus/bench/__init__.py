"""Experiments: the rows that are compared, grid files, the scheduler that executes their runs, and the tables of finished runs."""
