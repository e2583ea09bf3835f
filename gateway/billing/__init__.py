"""What usage costs: prices, rating and statements. Decimal throughout, never a float."""
