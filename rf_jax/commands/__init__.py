"""The command lines: one module each, and `entry`, which starts them."""
