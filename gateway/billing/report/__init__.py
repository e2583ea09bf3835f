"""Statements for people and machines: JSON, CSV, HTML and PDF, each the same bytes whenever it is made."""
