"""Albedos of the rough specular lobe, and the energy that single scattering loses.

The surfaces of the ground truth are the sum of a Lambert lobe and a GGX lobe. GGX has
alpha = roughness^2, reflectance 1 at every angle, and the specular colour as its weight. The lobe
is scaled so that light is not lost that scatters more than once inside the microsurface (Turquin
2019, "Practical multiple scattering compensation for microfacet models"), as in Blender's Cycles.
"""

import functools

import numpy as np

ROUGHNESS = np.linspace(0, 1, 33)
COSINES = np.linspace(0, 1, 33)
"""Roughness and cosines of the angle of view at which the tables are sampled."""

_SMALLEST_COSINE = 1e-3
_SAMPLES = 64
"""Samples per side of the grid that visible normals are drawn with."""


def directional_albedo(cosine: np.ndarray, roughness: np.ndarray, correlated: bool) -> np.ndarray:
    """Fraction of the light that a GGX lobe of reflectance 1 reflects by single scattering.

    Args:
      cosine: [...] cosine of the angle between the direction of view and the normal.
      roughness: [...] roughness in [0, 1].
      correlated: whether Smith's shadowing is height-correlated (as in Cycles) or separable (as in
        Mitsuba's roughconductor).

    Returns:
      [...] albedo.
    """
    cosine, roughness = np.broadcast_arrays(cosine, roughness)
    albedo = [
        _lobe_albedo(max(c, _SMALLEST_COSINE), max(r * r, 1e-4), correlated)
        for c, r in zip(cosine.flat, roughness.flat, strict=True)
    ]
    return np.array(albedo).reshape(cosine.shape)


def _lobe_albedo(cosine: float, alpha: float, correlated: bool) -> float:
    """Mean of G2 / G1 over the visible normals (Heitz 2018, "Sampling the GGX Distribution")."""
    wi = np.array([np.sqrt(max(0.0, 1 - cosine * cosine)), 0.0, cosine])
    ticks = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    u, v = (a.reshape(-1) for a in np.meshgrid(ticks, ticks))
    normal = _visible_normals(wi, alpha, u, v)
    cosine_o = 2 * (normal @ wi) * normal[:, 2] - wi[2]
    lambda_i = _smith_lambda(cosine, alpha)
    lambda_o = _smith_lambda(np.maximum(cosine_o, 1e-9), alpha)
    weight = (1 + lambda_i) / (1 + lambda_i + lambda_o) if correlated else 1 / (1 + lambda_o)
    return float(np.where(cosine_o > 0, weight, 0).mean())


def _visible_normals(wi: np.ndarray, alpha: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Microfacet normals [K, 3] that are visible from wi, for points (u, v) of the unit square."""
    stretched = wi * [alpha, alpha, 1]
    stretched /= np.linalg.norm(stretched)
    length = np.hypot(stretched[0], stretched[1])
    first = np.array([-stretched[1], stretched[0], 0]) / length if length else np.eye(3)[0]
    second = np.cross(stretched, first)
    radius, angle = np.sqrt(u), 2 * np.pi * v
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    blend = 0.5 * (1 + stretched[2])
    y = (1 - blend) * np.sqrt(1 - x * x) + blend * y
    z = np.sqrt(np.maximum(0, 1 - x * x - y * y))
    normal = x[:, None] * first + y[:, None] * second + z[:, None] * stretched
    normal = normal * [alpha, alpha, 1]
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _smith_lambda(cosine: np.ndarray, alpha: float) -> np.ndarray:
    tangent_squared = 1 / np.square(cosine) - 1
    return 0.5 * (np.sqrt(1 + alpha * alpha * tangent_squared) - 1)


@functools.cache
def albedo_table() -> np.ndarray:
    """Height-correlated directional albedo [33, 33] over `ROUGHNESS` and `COSINES`."""
    return directional_albedo(COSINES[None], ROUGHNESS[:, None], correlated=True)


@functools.cache
def mean_albedo_table(correlated: bool) -> np.ndarray:
    """Cosine-weighted mean [33] of the directional albedo, over `ROUGHNESS`."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    cosines, weights = (nodes + 1) / 2, weights / 2
    albedo = directional_albedo(cosines[None], ROUGHNESS[:, None], correlated)
    return (2 * albedo * cosines * weights).sum(axis=1)


def mean_albedo(roughness: np.ndarray, correlated: bool) -> np.ndarray:
    """Cosine-weighted mean [...] of the single-scattering albedo, for roughness [...]."""
    return np.interp(roughness, ROUGHNESS, mean_albedo_table(correlated))


def multiple_scattering(specular: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Reflectance Fms [...] of the light that single scattering loses.

    Args:
      specular: [...] reflectance of the microfacets.
      mean: [...] mean of the single-scattering albedo.
    """
    return specular * mean / (1 - specular * (1 - mean))


def specular_scale(specular: np.ndarray, roughness: np.ndarray) -> np.ndarray:
    """Weight with which Mitsuba's roughconductor has the mean albedo of all scattering.

    Args:
      specular: [N, 3] reflectance of the microfacets.
      roughness: [N] roughness in [0, 1].

    Returns:
      [N, 3] weights, above 1 for rough and bright surfaces.
    """
    mean = mean_albedo(roughness, correlated=True)[:, None]
    # Turquin's s [E + Fms (1 - E)] averages to Fms, as defined above
    return multiple_scattering(specular, mean) / mean_albedo(roughness, correlated=False)[:, None]
