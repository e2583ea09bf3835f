"""Who is calling and what they may read: keys, tokens, the built-in issuer, policy."""
