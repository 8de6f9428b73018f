"""Models whose robust accuracy is what an attack finds, one file each."""
