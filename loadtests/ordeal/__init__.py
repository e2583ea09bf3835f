"""Bad days on purpose: what a fault test is made of."""
