"""Layouts: the collections and tables that a source may be, one file each."""
