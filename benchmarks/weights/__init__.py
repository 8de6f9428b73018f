"""Files of weights from any source: read safely, and filled into a network."""
