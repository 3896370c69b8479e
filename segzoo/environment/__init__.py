"""What this machine has and what is installed on it: looked at, never changed.

Packages are asked for by their metadata. Only torch is imported, and what is wrong with that is one
of the findings: this room works where the rest of segzoo cannot be imported.
"""
