"""Pictures in, masks out, for any model that keeps a small protocol."""
