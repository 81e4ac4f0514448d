"""Pages made from what runs have written: files are read, nothing is trained or computed anew."""
