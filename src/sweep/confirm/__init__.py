"""After the search: its best few and the default on fresh seeds, and what they teach."""
