"""Training: data, loss, optimizer, sharding, and the loop that joins them."""
