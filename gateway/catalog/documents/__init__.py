"""The partner's documents, AsyncAPI and OpenAPI, built by allow-list from contracts and plans."""
