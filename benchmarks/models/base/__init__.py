"""What every model is built with; the models themselves are one folder up, one file each."""
