"""What this machine has and what is installed on it: looked at, never changed.

Packages are asked for by their metadata. Only torch and the Hub's client are imported, and what is
wrong with those is one of the findings: this works where the rest of segzoo cannot be imported.
"""
