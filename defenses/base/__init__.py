"""What every defense is built from; the defenses themselves stand one folder up, one file each."""
