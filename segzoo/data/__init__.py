"""Pictures and masks: what the files hold, and how results are drawn."""
