"""What the defenses are built from. The defenses themselves are one folder up, one file each."""
