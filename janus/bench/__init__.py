"""Experiments: the variants that are compared, grid files, their runs' scheduler, tables of finished runs."""
