"""What every attack is built from; the attacks themselves stand one folder up, one file each."""
