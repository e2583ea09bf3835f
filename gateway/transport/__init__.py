"""The edges where partners connect: protocols, problems, middleware."""
