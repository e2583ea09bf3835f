"""One partner's read: where it starts, what it takes next, when it ends."""
