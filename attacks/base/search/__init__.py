"""Search algorithms that several attacks share."""
