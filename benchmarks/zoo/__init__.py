"""Reference models for the Hub: a table of them, and the command that makes and pushes them."""
