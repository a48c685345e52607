"""Measurements of the network, of attention functions and of training runs."""
