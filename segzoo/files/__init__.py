"""Files of any origin, and the way to the Hub: nothing here knows what a model is."""
