"""Tables of stored results, and the gates on them."""
