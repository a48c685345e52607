"""From a scene to linear images, and to image files."""
