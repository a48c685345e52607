"""The viewer: a page in the browser that shows the network's image of a scene while it is edited.

`rf_jax.viewer.server` puts the parts together: the scene being edited (`state`), the thread that
renders it (`loop`), and what the page shows (`objects`, `controls`).
"""
