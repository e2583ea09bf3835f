"""The database of a deployment: connections within bounds, faults in words, the schema and its versions."""
