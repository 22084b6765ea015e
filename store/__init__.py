"""Rows, bytes and ids: the tables of a store, their files, commits and checks. Knows no model."""
