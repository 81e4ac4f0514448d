"""Shuffling, sealing and storing patch embeddings."""
