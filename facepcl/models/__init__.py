"""The networks, and what finds, reads and writes their weights."""
