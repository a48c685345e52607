"""Images: radiance, metrics, tone mapping, files and figures."""
