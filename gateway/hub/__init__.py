"""What is in use: one bounded log per topic, its encoded views, and the readers that feed it."""
