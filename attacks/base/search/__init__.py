"""Search loops that several attacks share."""
