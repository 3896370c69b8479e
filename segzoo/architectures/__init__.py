"""Architectures: one file each, named in the table of :mod:`segzoo.registry`."""
