"""What is exposed, to whom, at which limits: contracts and the commercial catalog."""
