"""Experiments: the variants that are compared, grid files, the scheduler of their runs, and the tables of finished runs."""
