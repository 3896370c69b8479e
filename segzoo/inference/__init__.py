"""Running a trained model fast, and telling how fast it runs."""
