"""What a program would need on GPUs that are not at hand: memory, collectives, a bound on time."""
