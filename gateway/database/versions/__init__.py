"""The schema's history: one module a version, each knows the way up and the way down."""
