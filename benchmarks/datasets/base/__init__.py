"""What every data set is built from; the data sets themselves stand one folder up, one file each."""
