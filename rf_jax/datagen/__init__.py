"""Training data: random scenes of the published distribution with path-traced ground truth."""
