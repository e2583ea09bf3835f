"""What was delivered, counted: from the moment of the delivery to the totals that people and statements are shown."""
