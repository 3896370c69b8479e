"""Folders of pictures, of any number: listing, threads, processes, machines, and what was done."""
