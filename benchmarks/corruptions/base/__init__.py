"""What several corruptions are built from; the corruptions themselves are one folder up, one file each."""
