"""The building blocks of attacks; the attacks themselves are one folder up, one file each."""
