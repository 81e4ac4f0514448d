"""What an attacker makes of an export: attacks on the files as they were written, and how well each one does."""
