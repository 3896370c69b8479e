"""A model as a file for runtimes that need neither torch nor segzoo."""
